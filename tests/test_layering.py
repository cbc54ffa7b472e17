"""The shape of the package: imports only go down, and each module has its `__all__` and its tests."""

from __future__ import annotations

import ast
import functools
import graphlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

__all__: list[str] = []

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
PACKAGE = "nri_sync"

# From the bottom up: a module imports only from layers below its own. Modules of one layer may import
# each other (not in a circle), except PEERS.
LAYERS = [
    {
        "codes",
        "errors",
        "deadline",
        "threads",
        "text",
        "files",
        "flood",
        "logger",
        "fork",
        "patched",
    },
    {"wire", "api"},
    {"net"},
    {"rpc"},
    # Two uses of the calls: an NRI connection, and the interfaces of grpcio.
    {"session", "ttrpc"},
    {"plugin", "runtime"},
    # The kit uses the exports of the top level.
    {"__init__", "kit"},
    {"testing", "cli"},
    {"pytest_plugin", "__main__"},
]
PEERS = [{"wire", "api"}, {"session", "ttrpc"}, {"plugin", "runtime"}]
# The packages and modules of the core.
CORE = {"wire", "net", "rpc", "ttrpc", "session", "plugin"}
# Usable without NRI, so without its schema.
WITHOUT_API = {"net", "rpc", "ttrpc"}

# The package with the interfaces of grpcio is for users. The modules of this package that import it all the same,
# both when they need it and not before: the names of the top level, and the stub for interceptors of grpc.
FACE = f"{PACKAGE}.ttrpc"
USES_THE_FACE = {PACKAGE, f"{PACKAGE}.plugin.interceptors"}

# The only outside modules of the protocol core: no I/O, threads, clock, gRPC or protobuf. Of mmap, only memory.
WIRE_MAY_IMPORT = {
    "__future__", "abc", "collections", "contextlib", "dataclasses", "enum", "functools", "io", "itertools",
    "mmap", "struct", "typing",
}  # fmt: skip
# From io, only a buffer in memory.
WIRE_MAY_IMPORT_OF_IO = "from io import BytesIO"

GENERATED = ("_pb2.py", "_pb2_grpc.py")
# Modules without a test file of the same name, with the reason.
UNTESTED: dict[str, str] = {}
# Test files that belong to no single module, with the reason.
SHARED = {
    "cli/test_hostile.py": "the worst text through every command, and the formats of the log",
    "test_signals.py": "signals during the calls of objects with locks, other than a stub",
    "plugin/test_defects.py": "what the reference does wrong, by the numbers of docs/defects.md",
    "plugin/test_interleavings.py": "calls on a stub that meet",
    "plugin/test_interleavings_all.py": "the same, of any number",
    "plugin/test_interleavings_handlers.py": "the same, in handlers",
    "plugin/test_interleavings_start.py": "the same, with a start",
    "plugin/test_schedule.py": "a random schedule of calls on a stub",
    "plugin/test_signals.py": "signals during the calls on a stub",
    "plugin/test_startup_failures.py": "the table of docs/lifecycle.md",
    "wire/test_fuzz_cases.py": "replays what fuzzing has found in any of the parsers",
    "wire/test_protocol_doc.py": "checks the bytes that docs/protocol.md shows",
}


def modules() -> dict[str, Path]:
    """Every hand-written module, by its dotted name."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        if not path.name.endswith(GENERATED):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
# The modules that imported names are compared with; generated modules count, too.
IMPORTABLE = set(MODULES) | {
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / PACKAGE).rglob("*_pb2*.py")
}


def owner(name: str) -> str:
    """The module of an imported dotted name: the name itself, or the module that defines it."""
    while name not in IMPORTABLE and "." in name:
        name = name.rpartition(".")[0]
    return name


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


@functools.cache
def tree(module: str) -> ast.Module:
    """The module's syntax tree. Cached, because every check needs it, and parsing is slow."""
    return ast.parse(MODULES[module].read_text(), str(MODULES[module]))


def statements(module: str, types_too: bool = True) -> Iterator[ast.AST]:
    """Each statement of the module, at any place, and the module itself, without expressions."""
    pending: list[ast.AST] = [tree(module)]
    while pending:
        node = pending.pop()
        if is_for_types(node) and not types_too:
            continue
        yield node
        for field in ("body", "orelse", "finalbody", "handlers"):
            pending += getattr(node, field, ())


@functools.cache
def imports(module: str, types_too: bool = True) -> tuple[tuple[int, str], ...]:
    """Line and full name of each import in ``module``, at any place in the file."""
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    found: list[tuple[int, str]] = []
    for node in statements(module, types_too):
        if isinstance(node, ast.Import):
            found += [(node.lineno, owner(alias.name)) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            found += [(node.lineno, owner(f"{base}.{alias.name}")) for alias in node.names]
    return tuple(sorted(found))


def imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""]
    return [alias.name for alias in node.names]


def part(module: str) -> str:
    """The part of the package that contains a module, with its name in LAYERS."""
    names = module.split(".")
    return names[1] if len(names) > 1 else "__init__"


def layer(module: str) -> int:
    for number, names in enumerate(LAYERS):
        if part(module) in names:
            return number
    pytest.fail(f"{module}: give {part(module)!r} a place in LAYERS of {__file__}")


def is_allowed(importer: str, imported: str) -> bool:
    here, there = part(importer), part(imported)
    if here == there:
        return True
    if any({here, there} <= peers for peers in PEERS) or (here in WITHOUT_API and there == "api"):
        return False
    return layer(imported) <= layer(importer)


def refused(is_wrong: Callable[[str, str], bool]) -> str:
    """The imports, each in a line, that are wrong according to a function of the importer and the name."""
    return "\n".join(
        f"{path.relative_to(ROOT)}:{line}: {module} may not import {name}"
        for module, path in MODULES.items()
        for line, name in imports(module)
        if is_wrong(module, name)
    )


def test_imports_go_down() -> None:
    for module in MODULES:
        layer(module)  # it must have one, even without imports
    assert not refused(lambda m, name: name.split(".")[0] == PACKAGE and not is_allowed(m, name))


def test_only_the_interfaces_of_grpcio_import_grpc() -> None:
    def is_wrong(module: str, name: str) -> bool:
        if part(module) == "ttrpc":
            return False
        is_grpc = name.split(".")[0] == "grpc" or name.endswith("_pb2_grpc")
        return is_grpc or (module not in USES_THE_FACE and f"{name}.".startswith(f"{FACE}."))

    assert not refused(is_wrong)


def test_the_interfaces_of_grpcio_are_imported_when_they_are_needed() -> None:
    for module in USES_THE_FACE:
        for node in tree(module).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                assert FACE not in ast.unparse(node)


def names_imported(module: str) -> set[str]:
    """The full names of the imports from the package, in their written form."""
    return {
        f"{node.module}.{alias.name}" if isinstance(node, ast.ImportFrom) else alias.name
        for node in statements(module)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
        if imported(node)[0].split(".")[0] == PACKAGE or alias.name.split(".")[0] == PACKAGE
    }


def test_the_kit_stands_on_public_names() -> None:
    import nri_sync
    import nri_sync.ttrpc

    public = {PACKAGE, f"{PACKAGE}.api", f"{PACKAGE}.errors"}
    public |= {f"{PACKAGE}.{name}" for name in nri_sync.__all__}
    public |= {f"{PACKAGE}.ttrpc.{name}" for name in nri_sync.ttrpc.__all__}
    found: dict[str, set[str]] = {}
    for module in MODULES:
        if part(module) == "kit":
            for name in names_imported(module):
                inside = name.startswith(f"{PACKAGE}.kit") or name in public
                if not inside and name.rpartition(".")[0] not in (
                    f"{PACKAGE}.api",
                    f"{PACKAGE}.errors",
                ):
                    found.setdefault(name, set()).add(module)
    page = (ROOT / "docs" / "building-blocks.md").read_text()
    listed = set(re.findall(r"^\| `(nri_sync[\w.]*)` \|", page, re.MULTILINE))
    assert found.keys() - listed == set(), {name: found[name] for name in found.keys() - listed}
    assert listed - found.keys() == set(), "the kit does not use these"


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    # Two modules of one layer may import each other's types for the type checker only.
    graph = {
        module: {name for _, name in imports(module, types_too=False) if name in MODULES} - {module}
        for module in MODULES
    }
    graphlib.TopologicalSorter(graph).prepare()


def test_the_protocol_core_does_no_io() -> None:
    allowed = WIRE_MAY_IMPORT | {PACKAGE}
    assert not refused(lambda m, name: part(m) == "wire" and name.split(".")[0] not in allowed)
    of_io = [
        ast.unparse(node)
        for module in MODULES
        if part(module) == "wire"
        for node in statements(module)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        and any(name.split(".")[0] == "io" for name in imported(node))
    ]
    assert set(of_io) <= {WIRE_MAY_IMPORT_OF_IO}


def assigned(module: str) -> set[str]:
    """The names that a module assigns, at its top level."""
    return {
        target.id
        for node in tree(module).body
        if isinstance(node, (ast.Assign, ast.AnnAssign))
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }


def test_every_module_lists_its_exports() -> None:
    assert [module for module in MODULES if "__all__" not in assigned(module)] == []


def test_every_module_has_its_tests() -> None:
    missing = []
    for module, path in MODULES.items():
        if path.name in ("__init__.py", "__main__.py") or module in UNTESTED:
            continue
        inside = path.relative_to(ROOT / PACKAGE)
        tests = TESTS / inside.parent / f"test_{inside.name.lstrip('_')}"
        if not tests.exists():
            missing.append(f"{module}: no {tests.relative_to(ROOT)}")
    assert not missing, "\n".join(missing)
    assert UNTESTED.keys() <= MODULES.keys(), "UNTESTED names modules that are gone"


def test_every_test_file_belongs_to_a_module() -> None:
    stray = []
    for package in sorted({path.parent for path in MODULES.values()} - {ROOT / PACKAGE}):
        inside = package.relative_to(ROOT / PACKAGE)
        named = [package.name, *(path.stem.lstrip("_") for path in package.glob("*.py"))]
        prefixes = tuple(f"test_{name}" for name in named)
        for tests in sorted((TESTS / inside).glob("test_*.py")):
            if str(tests.relative_to(TESTS)) in SHARED:
                continue
            if not any(tests.stem == p or tests.stem.startswith(f"{p}_") for p in prefixes):
                stray.append(f"{tests.relative_to(ROOT)} tests no module of {package.name}/")
    assert not stray, "\n".join(stray)


def test_the_tests_are_packages() -> None:
    # Otherwise two test files with one name in different directories clash.
    wanted = {path.parent.relative_to(ROOT / PACKAGE) for path in MODULES.values()}
    missing = [str(p) for p in wanted if not (TESTS / p / "__init__.py").exists()]
    assert not missing, f"tests/{missing[0]} needs an __init__.py"


def test_a_helper_that_needs_a_lock_asserts_it() -> None:
    wrong = []
    for module in MODULES:
        for node in statements(module):
            if isinstance(node, ast.FunctionDef) and re.search(r"(?<!is)_locked$", node.name):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                if not ast.unparse(body[0]).startswith("assert self._lock.locked()"):
                    wrong.append(f"{module}.{node.name}")
    assert not wrong


def lines_of_code(module: str) -> int:
    text: set[int] = set()
    for node in statements(module):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(
            node
        ):
            text.update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    lines = MODULES[module].read_text().splitlines()
    return sum(
        number not in text and line.strip() != "" and not line.strip().startswith("#")
        for number, line in enumerate(lines, 1)
    )


def test_a_file_of_the_core_has_at_most_350_lines_of_code() -> None:
    counts = {module: lines_of_code(module) for module in MODULES if part(module) in CORE}
    assert len(counts) > 50
    assert {module: count for module, count in counts.items() if count > 350} == {}


def test_the_parts_of_a_connection_do_not_import_each_other() -> None:
    """Of the three modules, only the connection may import the others, even for types."""
    parts = [f"{PACKAGE}.plugin.{name}" for name in ("connection", "lifecycle", "servicer")]
    known = {module: {name for _, name in imports(module)} & set(parts) for module in parts}
    assert known[parts[1]] == known[parts[2]] == set()
