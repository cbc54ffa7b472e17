"""Changes the core in small ways, one at a time, and counts the changes that the nearest tests notice.

    python tools/mutate.py [--each N] [--seed S] [--jobs J] [--write FILE] [PATH ...]

A mutant is a copy of the package with one change: another comparison, a negated condition, ``and`` for ``or``, a
number off by one, a removed statement or ``return`` value, ``True`` for ``False``. The tests of the module run
first, then those of its package. The first failure kills the mutant. The output lists survivors with file, line
and change.

PATH is a module or a package below nri_sync; the default is CORE. ``--each`` selects N mutants a module (0: all),
and ``--seed`` determines the selection. Run it by hand: a mutant takes seconds, and all mutants take hours.
"""

from __future__ import annotations

import argparse
import ast
import concurrent.futures
import copy
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CORE", "Mutant", "main", "mutants"]

ROOT = Path(__file__).resolve().parent.parent
CORE = ("wire", "net", "rpc", "ttrpc", "session.py", "plugin")
# Time limit for the tests of one module, in seconds. It also ends a mutant that hangs.
TIMEOUT = 120.0

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
# Statements whose removal a test can notice. Statements that only log are excluded.
_REMOVABLE = (ast.Expr, ast.Assign, ast.AugAssign, ast.Delete, ast.Raise)


@dataclass(frozen=True)
class Mutant:
    """One change in one module."""

    module: Path
    line: int
    change: str
    source: str

    def __str__(self) -> str:
        return f"{self.module.relative_to(ROOT)}:{self.line}: {self.change}"


def _changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """The possible replacements of ``node``, each with a description."""
    new = copy.deepcopy(node)
    if isinstance(new, ast.Compare) and type(new.ops[0]) in _COMPARISONS:
        new.ops[0] = _COMPARISONS[type(new.ops[0])]()
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
    elif isinstance(new, ast.Return) and new.value is not None:
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


def _inside_functions(tree: ast.Module) -> Iterator[ast.AST]:
    """The nodes in the bodies of functions, without annotations, docstrings and asserts."""
    functions = (
        n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))
    )
    pending: list[ast.AST] = [statement for function in functions for statement in function.body]
    while pending:
        node = pending.pop()
        if isinstance(
            node, (ast.Assert, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        ) or _is_for_types(node):
            continue
        yield node
        children = list(ast.iter_child_nodes(node))
        if isinstance(node, ast.AnnAssign):
            children.remove(node.annotation)
        # Texts of messages may change. The parts of an f-string are not code to test.
        pending.extend(
            child for child in children if not isinstance(child, (ast.JoinedStr, ast.Raise))
        )


def mutants(module: Path) -> Iterator[Mutant]:
    """All mutants of a module."""
    source = module.read_text()
    count = len(list(_inside_functions(ast.parse(source))))
    for number in range(count):
        # Parse a new tree for each mutant. The number of a node identifies it in every tree.
        tree = ast.parse(source)
        node = list(_inside_functions(tree))[number]
        for change, new in _changes(node):
            mutated = _Replace(node, new).visit(tree)
            yield Mutant(
                module,
                getattr(node, "lineno", 0),
                change,
                ast.unparse(ast.fix_missing_locations(mutated)),
            )


def _tests(module: Path) -> list[list[str]]:
    """The tests to run for a module, nearest first."""
    inside = module.relative_to(ROOT / "nri_sync")
    directory = ROOT / "tests" / inside.parent
    own = sorted(directory.glob(f"test_{inside.stem.lstrip('_')}*.py"))
    groups = [[str(path.relative_to(ROOT)) for path in own], [str(directory.relative_to(ROOT))]]
    if inside.parent == Path():
        groups[1] = ["tests/rpc", "tests/plugin"]
    return [group for group in groups if group]


class _Checkout:
    """A copy of the sources. It runs one mutant at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        for name in ("nri_sync", "tests", "examples", "tools", "docs"):
            shutil.copytree(
                ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        for path in (
            *ROOT.glob("*.cfg"),
            *ROOT.glob("*.toml"),
            *ROOT.glob("*.md"),
            *ROOT.glob("tox.ini"),
        ):
            shutil.copy(path, directory)

    def survives(self, mutant: Mutant) -> bool:
        """Whether all tests pass with the mutant."""
        target = self._directory / mutant.module.relative_to(ROOT)
        target.write_text(mutant.source)
        try:
            return all(self._passes(tests) for tests in _tests(mutant.module))
        finally:
            target.write_text(mutant.module.read_text())

    def _passes(self, tests: list[str]) -> bool:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-qq",
            "-x",
            "--timeout=30",
            "-p",
            "no:cacheprovider",
            *tests,
        ]
        environ = {**os.environ, "PYTHONPATH": str(self._directory), "PYTHONDONTWRITEBYTECODE": "1"}
        with subprocess.Popen(
            command, cwd=self._directory, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as tested:  # fmt: skip
            try:
                return tested.wait(TIMEOUT) == 0
            except subprocess.TimeoutExpired:
                os.killpg(tested.pid, 9)
                return False


def _modules(paths: Sequence[str]) -> list[Path]:
    found: list[Path] = []
    for name in paths or [name for name in CORE if (ROOT / "nri_sync" / name).exists()]:
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

    drawn: list[Mutant] = []
    for module in _modules(options.paths):
        choices = list(mutants(module))
        if options.each and len(choices) > options.each:
            choices = random.Random(f"{options.seed} {module.name}").sample(choices, options.each)
        drawn += choices
    killed: Counter[str] = Counter()
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as directory:
        checkouts = [_Checkout(Path(directory) / str(job)) for job in range(options.jobs)]

        # A list's append() and pop() are atomic, so each thread gets a different checkout.
        def run(mutant: Mutant) -> bool:
            checkout = checkouts.pop()
            try:
                return checkout.survives(mutant)
            finally:
                checkouts.append(checkout)

        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            for mutant, survived in zip(drawn, pool.map(run, drawn)):
                package = str(mutant.module.relative_to(ROOT / "nri_sync").parent)
                total[package] += 1
                killed[package] += not survived
                if survived:
                    print(f"survived: {mutant}", flush=True)
                    if options.write:
                        with options.write.open("a") as file:
                            print(mutant, file=file)
    for package, count in sorted(total.items()):
        print(
            f"{package:10} {killed[package]:5} of {count:5} killed, {killed[package] / count:.1%}"
        )
    print(f"{'all':10} {sum(killed.values()):5} of {sum(total.values()):5} killed")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
