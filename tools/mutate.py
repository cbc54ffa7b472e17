"""Changes the core in small ways, one at a time, and counts the changes that the nearest tests notice.

    python -m tools.mutate [--each N] [--seed S] [--jobs J] [--write FILE] [PATH ...]

A mutant is the package with one change: another comparison, a negated condition, ``and`` for ``or``, a number off
by one, a removed statement or ``return`` value, ``True`` for ``False``. The tests of the module run first, then
those of its package. The first failure kills the mutant. The output lists survivors with file, line and change.

PATH is a module or a package below nri_sync; the default is CORE. ``--each`` selects N mutants a module (0: all),
and ``--seed`` determines the selection. Run it by hand: tools/mutant_run.py needs about a second a mutant.
"""

from __future__ import annotations

import argparse
import ast
import concurrent.futures
import copy
import itertools
import multiprocessing
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

__all__ = ["CORE", "ROOT", "Function", "Mutant", "main", "mutants", "tests_of"]

ROOT = Path(__file__).resolve().parent.parent
CORE = ("wire", "session.py", "rpc", "ttrpc", "plugin", "net")

# The tests of a package, where they are not those in the directory of its name.
_CALLS = ["tests/rpc", "tests/ttrpc"]
_NEAR = {".": ["tests/rpc"], "rpc": _CALLS, "ttrpc": _CALLS}

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
# Statements whose removal a test can notice. Statements that only log are excluded.
_REMOVABLE = (ast.Expr, ast.Assign, ast.AugAssign, ast.Delete, ast.Raise)


class Function(NamedTuple):
    """Identifies a function of a module, as its code object does."""

    line: int
    name: str


@dataclass(frozen=True)
class Mutant:
    """One change in one module."""

    module: Path
    line: int
    change: str
    # The functions around the change, the outermost first.
    functions: tuple[Function, ...]
    # The number of the node in _inside_functions(), and of the change in _changes(). A tree of each mutant would
    # take gigabytes.
    _node: int
    _change: int

    @property
    def tree(self) -> ast.Module:
        """The changed module, with the line numbers of the original."""
        tree = ast.parse(self.module.read_text())
        node = next(itertools.islice(_inside_functions(tree), self._node, None))[0]
        new = next(itertools.islice(_changes(node), self._change, None))[1]
        return ast.fix_missing_locations(_Replace(node, new).mutate(tree))

    @property
    def source(self) -> str:
        """The changed module."""
        return ast.unparse(self.tree)

    def __str__(self) -> str:
        return f"{self.module.relative_to(ROOT)}:{self.line}: {self.change}"


def _changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """The possible replacements of ``node``, each with a description."""
    new = copy.copy(node)
    if isinstance(new, ast.Compare) and type(new.ops[0]) in _COMPARISONS:
        new.ops = [_COMPARISONS[type(new.ops[0])](), *new.ops[1:]]
        yield f"{ast.unparse(node)} -> {ast.unparse(new)}", new
    elif isinstance(new, ast.BoolOp):
        new.op = ast.Or() if isinstance(new.op, ast.And) else ast.And()
        yield f"{ast.unparse(node)} -> {ast.unparse(new)}", new
    elif isinstance(new, ast.BinOp) and type(new.op) in _OPERATORS:
        new.op = _OPERATORS[type(new.op)]()
        yield f"{ast.unparse(node)} -> {ast.unparse(new)}", new
    elif isinstance(new, ast.Constant) and isinstance(new.value, bool):
        new.value = not new.value
        yield f"{ast.unparse(node)} -> {ast.unparse(new)}", new
    elif isinstance(new, ast.Constant) and isinstance(new.value, int):
        new.value += 1
        yield f"{ast.unparse(node)} -> {ast.unparse(new)}", new
    elif isinstance(new, (ast.If, ast.While)):
        new.test = ast.UnaryOp(ast.Not(), new.test)
        yield f"condition negated: {ast.unparse(new.test)}", new
    elif isinstance(new, ast.Return) and not _is_nothing(new.value):
        new.value = ast.Constant(None)
        yield f"{ast.unparse(node)} -> return None", new
    elif isinstance(node, _REMOVABLE) and not _is_passive(node):
        yield f"removed: {ast.unparse(node)[:80]}", ast.copy_location(ast.Pass(), node)


def _is_passive(node: ast.stmt) -> bool:
    """Whether a statement is a docstring or only logs."""
    if not isinstance(node, ast.Expr):
        return False
    value = node.value
    if isinstance(value, ast.Constant):
        return True
    return isinstance(value, ast.Call) and ast.unparse(value.func).rpartition(".")[0].endswith(
        ("log", "logger")
    )


def _is_nothing(value: ast.expr | None) -> bool:
    """Whether a returned value is None, or False, which callers that ask yes or no treat as None."""
    return value is None or (
        isinstance(value, ast.Constant) and (value.value is None or value.value is False)
    )


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


class _Replace(ast.NodeTransformer):
    """Replaces a node by another."""

    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self._old, self._new = old, new

    def mutate(self, tree: ast.Module) -> ast.Module:
        self.visit(tree)
        return tree

    def visit(self, node: ast.AST) -> ast.AST:
        return self._new if node is self._old else self.generic_visit(node)


def _inside_functions(
    node: ast.AST, functions: tuple[Function, ...] = (), in_body: bool = False
) -> Iterator[tuple[ast.AST, tuple[Function, ...]]]:
    """The nodes in the bodies of functions, with those functions. Without annotations, docstrings and asserts."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        # Code begins at the line of the first decorator.
        line = min(part.lineno for part in (node, *node.decorator_list))
        functions += (Function(line, node.name),)
        for statement in node.body:
            yield from _inside_functions(statement, functions, True)
        return
    if isinstance(node, ast.Assert) or _is_for_types(node):
        return
    in_body = in_body and not isinstance(node, ast.ClassDef)
    if in_body:
        yield node, functions
    for child in ast.iter_child_nodes(node):
        if isinstance(node, ast.AnnAssign) and child is node.annotation:
            continue
        # Texts of messages may change. The parts of an f-string are not code to test.
        if isinstance(node, (ast.JoinedStr, ast.Raise)):
            continue
        yield from _inside_functions(child, functions, in_body)


def mutants(module: Path) -> Iterator[Mutant]:
    """All mutants of a module."""
    tree = ast.parse(module.read_text())
    for number, (node, functions) in enumerate(_inside_functions(tree)):
        for kind, (change, _) in enumerate(_changes(node)):
            line = getattr(node, "lineno", 0)
            yield Mutant(module, line, change, functions, number, kind)


def tests_of(module: Path) -> list[list[str]]:
    """The tests to run for a module, nearest first."""
    inside = module.relative_to(ROOT / "nri_sync")
    directory = ROOT / "tests" / inside.parent
    own = sorted(directory.glob(f"test_{inside.stem.lstrip('_')}*.py"))
    near = _NEAR.get(str(inside.parent)) or [str(directory.relative_to(ROOT))]
    # Each package has code for the child after a fork.
    return [[*(str(path.relative_to(ROOT)) for path in own), "tests/test_fork.py"], near]


def _modules(paths: Sequence[str]) -> list[Path]:
    found: list[Path] = []
    for name in paths or CORE:
        path = ROOT / "nri_sync" / name
        found += [path] if path.suffix == ".py" else sorted(path.rglob("*.py"))
    return [path for path in found if "_pb2" not in path.name]


def main(arguments: Sequence[str]) -> int:
    """Run mutants for the command line; prints survivors and the table; returns 0."""
    parser = argparse.ArgumentParser(description="Count the mutants that the tests kill.")
    parser.add_argument(
        "--each", type=int, default=10, help="mutants a module; 0 for all (default: 10)"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--write", type=Path, help="also append the survivors to this file")
    parser.add_argument("paths", nargs="*", help="below nri_sync, such as wire or plugin/stub.py")
    options = parser.parse_args(arguments)
    from tools import mutant_run  # it needs pytest

    packages: dict[Path, list[Mutant]] = {}
    for module in _modules(options.paths):
        choices = list(mutants(module))
        if options.each and len(choices) > options.each:
            choices = random.Random(f"{options.seed} {module.name}").sample(choices, options.each)
        packages.setdefault(module.parent, []).extend(choices)

    outcomes: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory(prefix="mut") as scratch:
        for package, chosen in packages.items():
            # A new process, because it imports the package.
            with concurrent.futures.ProcessPoolExecutor(
                1, multiprocessing.get_context("fork")
            ) as pool:
                name = str(package.relative_to(ROOT / "nri_sync"))
                outcomes[name] = pool.submit(
                    mutant_run.run, chosen, options.jobs, Path(scratch), options.write
                ).result()
    for name, count in [*outcomes.items(), ("all", sum(outcomes.values(), Counter()))]:
        made, killed = sum(count.values()), count["failed"] + count["late"]
        if made:
            print(
                f"{name:8} {killed:5} of {made:5} killed, {killed / made:.1%} "
                f"({count['late']} of them by the time limit)"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
