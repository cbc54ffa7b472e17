"""The package's own source as generators, for the scheduler: the functions yield where threads can meet.

A function that is made into a generator yields

- before it takes a lock, and where it waits;
- before each read of a shared attribute that it makes without the lock, and before each write.

Reads under the lock do not yield: every write of an attribute that the lock guards is checked to be made under it,
so that no other thread can change the value meanwhile. All else is between threads that cannot see each other.
"""

from __future__ import annotations

import ast
import sys
import types
from typing import Any

__all__ = ["Names", "explored"]


class Names:
    """Names in the source that mean something to the scheduler."""

    def __init__(
        self,
        *,
        functions: frozenset[str],
        waiting: frozenset[str],
        steps: frozenset[str],
        read: frozenset[str],
        written: frozenset[str],
        lock: str,
    ) -> None:
        #: Functions and methods that become generators.
        self.functions = functions
        #: Functions and methods of others, which are generators in the model.
        self.waiting = waiting
        #: Functions that are one step each.
        self.steps = steps
        #: Attributes whose reads are steps, and those whose writes are.
        self.read = read
        self.written = written
        #: The attribute in ``with self.LOCK:``.
        self.lock = lock


def explored(source: str, name: str, names: Names) -> types.ModuleType:
    """The module of a source text, with generators. Its names can be replaced by those of a model."""
    tree = _Generators(names).visit(ast.parse(source))
    ast.fix_missing_locations(tree)
    module = types.ModuleType(f"explored.{name}")
    # As an import does: annotations and pickling look for the module there.
    sys.modules[module.__name__] = module
    exec(compile(tree, f"<{module.__name__}>", "exec"), vars(module))
    return module


class _Generators(ast.NodeTransformer):
    def __init__(self, names: Names) -> None:
        self._names = names
        # Whether the code is in a function to transform, and under the lock.
        self._inside = False
        self._locked = False

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        if node.name not in self._names.functions:
            return node
        outer = self._inside, self._locked
        self._inside, self._locked = True, node.name.endswith("_locked")
        node.body = self._statements(node.body)
        # A generator in any case.
        node.body.insert(0, ast.parse("yield from ()").body[0])
        node.decorator_list = []
        self._inside, self._locked = outer
        return node

    def _statements(self, body: list[ast.stmt]) -> list[ast.stmt]:
        found: list[ast.stmt] = []
        for statement in body:
            done = self.visit(statement)
            if self._inside and not isinstance(statement, ast.FunctionDef):
                # Values that the statement before has read are of no use any more.
                found.append(ast.parse("_begin()").body[0])
            found += done if isinstance(done, list) else [done]
        return found

    def generic_visit(self, node: ast.AST) -> ast.AST:
        for field in ("body", "orelse", "finalbody"):
            body = getattr(node, field, None)
            if isinstance(body, list) and self._inside:
                setattr(node, field, self._statements(body))
        for field, value in ast.iter_fields(node):
            if (
                field in ("body", "orelse", "finalbody")
                and isinstance(value, list)
                and self._inside
            ):
                continue
            if isinstance(value, ast.AST):
                setattr(node, field, self.visit(value))
            elif isinstance(value, list):
                setattr(
                    node, field, [self.visit(v) if isinstance(v, ast.AST) else v for v in value]
                )
        return node

    # In these a yield is not possible: they are single steps.

    def visit_Lambda(self, node: ast.Lambda) -> Any:
        return node

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = visit_Lambda  # type: ignore[assignment]

    def visit_Assert(self, node: ast.Assert) -> Any:
        return node

    def visit_While(self, node: ast.While) -> Any:
        """The condition becomes a separate statement, each time."""
        if not self._inside:
            return self.generic_visit(node)
        assert not node.orelse
        leave = ast.If(test=ast.UnaryOp(ast.Not(), node.test), body=[ast.Break()], orelse=[])
        loop = ast.While(test=ast.Constant(True), body=[leave, *node.body], orelse=[])
        return self.generic_visit(loop)

    def visit_With(self, node: ast.With) -> Any:
        context = node.items[0].context_expr
        is_lock = isinstance(context, ast.Attribute) and context.attr == self._names.lock
        if not (self._inside and is_lock):
            return self.generic_visit(node)
        outer, self._locked = self._locked, True
        body = self._statements(node.body)
        self._locked = outer
        acquire = ast.parse("yield from lock.acquire()").body[0]
        release = ast.parse("lock.release()").body[0]
        for statement in (acquire, release):
            for part in ast.walk(statement):
                if isinstance(part, ast.Attribute):
                    part.value = context
        return [acquire, ast.Try(body=body, handlers=[], orelse=[], finalbody=[release])]

    def visit_Call(self, node: ast.Call) -> Any:
        self.generic_visit(node)
        names = self._names.functions | self._names.waiting
        # The method itself is not shared data: undo that for its last name.
        called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if self._inside and called in names:
            return ast.YieldFrom(node)
        if self._inside and called in self._names.steps:
            return _call("_step", node.func, *node.args)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> Any:
        self.generic_visit(node)
        is_read = isinstance(node.ctx, ast.Load)
        if self._inside and is_read and not self._locked and node.attr in self._names.read:
            return _call("_read", node.value, ast.Constant(node.attr))
        return node

    def visit_Assign(self, node: ast.Assign) -> Any:
        self.generic_visit(node)
        target = node.targets[0]
        if not (self._inside and isinstance(target, ast.Attribute)):
            return node
        if target.attr not in self._names.written:
            return node
        return ast.Expr(_call("_write", target.value, ast.Constant(target.attr), node.value))


def _call(name: str, *arguments: ast.expr) -> ast.YieldFrom:
    return ast.YieldFrom(ast.Call(ast.Name(name, ast.Load()), list(arguments), []))
