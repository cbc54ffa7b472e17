"""Tests reach private names of the package only where the list below gives a reason."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

__all__: list[str] = []

TESTS = Path(__file__).resolve().parent
# Those of the core are counted where it is tested.
FOLDERS = ("api", "cli", "kit", "runtime", "testing")

# Of the standard library and of named tuples, public in spite of the underscore.
PUBLIC = {"_asdict", "_exit", "_fields", "_getframe", "_make", "_replace"}
# Calls that take the name of an attribute, and the position of that name; setattr() takes a path, too.
BY_NAME = {"delattr", "getattr", "hasattr", "setattr"}

_WAITING = "a thread waits, which no event and no counter reports"
_MOMENT = "a moment inside a call, at which something else has to happen"
ALLOWED = {
    "api/test_check.py": {"_check": "the module is private; its tests have its name"},
    "kit/health/test_metrics.py": {"_lock": "a fork while another thread holds the lock"},
    "kit/inventory/test_inventory.py": {
        "_condition": _MOMENT, "_delivery": _MOMENT, "_omit": _MOMENT,
    },
    "kit/test_futures.py": {"_settled": _WAITING, "_waiters": _WAITING},
    "kit/test_kit.py": {"_HOMES": "the table of the imports on demand"},
    "kit/updates/test_queue.py": {"_room": _WAITING, "_waiters": _WAITING},
    "runtime/rig.py": {
        "_request_timeout": "only the requests that have to be late get a short time",
        "_serving": "the way to the above",
    },
    "runtime/test_runtime.py": {"_handle_failure": _MOMENT, "_serving": "the way to the above"},
    "testing/test_running.py": {
        "_LET_GO_WITHIN": "the time that a plugin would have to hang for",
        "_begin": _MOMENT,
        "_end": _MOMENT,
        "_left": "the check at the end of a test, which the test could not survive",
        "_node": "an update that fails on the node",
        "_on_disconnect": _MOMENT,
        "_started": "the runtime inside a fake one",
    },
}  # fmt: skip


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name not in PUBLIC


def own_names(tree: ast.AST) -> set[str]:
    """The names that a test file defines itself."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if ast.unparse(node.value) == "self":
                found.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def reached(node: ast.AST) -> list[str]:
    """The private names that a node reaches."""
    if isinstance(node, ast.Attribute):
        return [node.attr]
    if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nri_sync"):
        return [*(node.module or "").split("."), *(alias.name for alias in node.names)]
    if isinstance(node, ast.Call):
        function = (
            node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
        )
        if function in BY_NAME:
            texts = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
            return [part for text in texts if isinstance(text, str) for part in text.split(".")]
    return []


def private_names(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(), str(path))
    own = own_names(tree)
    names = {name for node in ast.walk(tree) for name in reached(node)}
    return {name for name in names if is_private(name) and name not in own}


FILES = [path for folder in FOLDERS for path in sorted((TESTS / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TESTS)))
def test_private_names(path: Path) -> None:
    assert private_names(path) == set(ALLOWED.get(str(path.relative_to(TESTS)), {}))


def test_the_list_names_files_that_there_are() -> None:
    assert ALLOWED.keys() <= {str(path.relative_to(TESTS)) for path in FILES}


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("stub._lock", {"_lock"}),
        ("from nri_sync.api._check import check", {"_check"}),
        ("from nri_sync.kit import _name", {"_name"}),
        ("monkeypatch.setattr(module, '_LIMIT', 3)", {"_LIMIT"}),
        ("monkeypatch.setattr('nri_sync.kit._LIMIT', 3)", {"_LIMIT"}),
        ("self._mine = 1\nself._mine", set()),
        ("counters._replace(done=1)", set()),
        ("module.__name__", set()),
        ("call('_text')", set()),
    ],
)
def test_what_counts(code: str, names: set[str], tmp_path: Path) -> None:
    path = tmp_path / "code.py"
    path.write_text(code)
    assert private_names(path) == names
