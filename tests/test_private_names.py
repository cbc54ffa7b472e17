"""Tests reach private names of the package only where the list below gives a reason."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

__all__: list[str] = []

TESTS = Path(__file__).resolve().parent
# Names of the standard library that have an underscore, and whose use the documentation describes.
PUBLIC = {"_asdict", "_current_frames", "_exit", "_fields", "_getframe", "_make", "_replace"}
# Calls that take the name of an attribute, and the position of that name; setattr() takes a path, too.
BY_NAME = {"delattr", "getattr", "hasattr", "setattr"}

_WAITING = "a thread waits, which no event and no counter reports"
_MOMENT = "a moment inside a call, at which something else has to happen"
_LOCK = "a thread of the test holds the lock, or checks who holds it"
_PART = "the object that the test drives alone, which the stub does not show"
_LEFT = "the check that nothing is left after an end"
_WAY = "the way to the others of this file"
_SIGNAL = "an object whose code the signal interrupts, at each bytecode"
_MODULE = "the module is private; its tests have its name"
ALLOWED: dict[str, dict[str, str]] = {
    "_signals.py": {"_delivery": _SIGNAL, "_node": _SIGNAL, "_pool": _SIGNAL},
    "api/test_check.py": {"_check": _MODULE},
    "cli/test_trace.py": {"_missing": _MOMENT},
    "conftest.py": {"_DummyThread": "the kind of threads that the tests did not start"},
    "fuzz/fuzz_node.py": {"_Handler": "the parser of requests, without a socket"},
    "kit/health/test_connections.py": {
        "_GIVE_WAY": "the time that threads get which hang for longer than any time",
        "_LEAST_TIME": "the limit, which a busy machine may need in full",
    },
    "kit/health/test_metrics.py": {"_answers": _MOMENT, "_lock": _LOCK},
    "kit/inventory/test_inventory.py": {
        "_condition": _MOMENT, "_delivery": _MOMENT, "_lock": _LOCK, "_omit": _MOMENT,
        "_synchronizing": _LOCK,
    },
    "kit/test_futures.py": {"_settled": _WAITING},
    "kit/test_kit.py": {"_HOMES": "the table of the imports on demand"},
    "kit/updates/test_queue.py": {"_room": _WAITING, "_waiters": _WAITING},
    "model/ours.py": dict.fromkeys(
        (
            "_conns", "_is_closed", "_lane", "_lifecycle", "_lock", "_on_close", "_router", "_spec",
            "_until_stopped_latches",
        ),
        "the model runs the code of the stub with parts that it explores in every order",
    ),
    "net/test_link.py": {"_watcher_is_back": _WAITING},
    "net/test_workers.py": {"_lock": _LOCK},
    "plugin/_scene.py": {
        "_changed": _LOCK, "_conns": _LEFT, "_lifecycle": "each move is checked against a model",
        "_lock": _LOCK, "_send_lock": _LOCK, "_spec": _WAY,
    },
    "plugin/_signals.py": {"_conns": _LEFT},
    "plugin/test_connection.py": {"_current": _PART, "_new_connection": _PART},
    "plugin/test_counters.py": {"_after_fork_in_child": _LOCK, "_lock": _LOCK},
    "plugin/test_defects.py": {"_lifecycle": "the facts, which have to be of one session in each read"},
    "plugin/test_handover.py": {"_spec": "the way to the path of the socket, which goes away and comes back"},
    "plugin/test_interceptors.py": {"_server": _PART},
    "plugin/test_interleavings_all.py": {"_spec": _MOMENT},
    "plugin/test_interleavings_handlers.py": {"_lifecycle": _PART},
    "plugin/test_interleavings_start.py": {
        "_conns": _LEFT, "_new_connection": _MOMENT, "_spec": _MOMENT,
    },
    "plugin/test_lane.py": {"_live": _LEFT},
    "plugin/test_late.py": {"_live": _PART, "_new_connection": _PART, "_spec": _PART},
    "plugin/test_lifecycle.py": {"_changed": _WAY, "_waiters": _WAITING},
    "plugin/test_reconnect.py": {"_new_connection": _MOMENT},
    "plugin/test_schedule.py": {"_conns": _LEFT, "_current": _PART, "_live": _PART},
    "plugin/test_servicer.py": {
        "_conns": _WAY, "_last_answers": _LEFT,
        "_session": "the client of the runtime side, for a request with metadata",
    },
    "plugin/test_signals.py": {"_conns": _WAITING},
    "plugin/test_spec.py": {"_spec": _PART},
    "plugin/test_startup_failures.py": {
        "_live": "the phase of a start that has not returned",
    },
    "rpc/test_client.py": {"_call": _WAY, "_send_lock": _WAITING},
    "rpc/test_inbox.py": {"_arrival": _MOMENT},
    "rpc/test_late.py": {"_look_at": "the clock of the timer, which the test moves"},
    "rpc/test_router.py": {"_lock": _LOCK},
    "rpc/test_server.py": {"_connections": _PART, "_unsent": _MOMENT},
    "rpc/test_server_call.py": {"_connections": _PART, "_running": _LEFT},
    "runtime/rig.py": {
        "_request_timeout": "only the requests that have to be late get a short time",
        "_serving": _WAY,
    },
    "runtime/test_launcher.py": {"_grace": "one process of several, which has no time limit"},
    "runtime/test_runtime.py": {"_handle_failure": _MOMENT, "_serving": _WAY},
    "runtime/test_sync_lock.py": {"_changed": "a deadline that passes when the test says so"},
    "test_flood.py": {"_lock": _LOCK},
    "test_lock_ranks.py": {"_lock": "the proof that the locks of the package are replaced"},
    "test_threads.py": {
        "_active_limbo_lock": "a lock of threading, which another thread holds",
        "_bootstrap": "a thread of threading that begins late",
        "_ending": "the end of the interpreter, which the test could not survive",
        "_idle": _MOMENT,
        "_is_set": _MOMENT,
        "_make_thread": "no memory is left for the object of a thread",
        "_thread": _MOMENT,
        "_waiters": _MOMENT,
    },
    "testing/recordings/test_replaying.py": dict.fromkeys(
        ("_Replay", "_await_hook", "_timeout"), "one wait of several, which alone is short"
    ),
    "testing/test_running.py": {
        "_begin": _MOMENT,
        "_end": _MOMENT,
        "_left": "the check at the end of a test, which the test could not survive",
        "_node": "an update that fails on the node",
        "_on_disconnect": _MOMENT,
        "_started": "the runtime inside a fake one",
    },
    "testing/test_sent_event.py": {"_started": "the runtime inside a fake one"},
    "ttrpc/rig.py": {"_call": "the deadline of a call that has begun, which the test moves"},
    "ttrpc/test_call.py": {"_lock": _LOCK, "_send_lock": _LOCK},
    "ttrpc/test_channel.py": {"_state": _WAITING},
    "ttrpc/test_connection.py": {"_lock": _LOCK},
    "ttrpc/test_context.py": {"_state": "py-grpc-prometheus reads this attribute of a context of grpcio"},
    "ttrpc/test_server.py": {
        "_connections": _LEFT, "_running": _LEFT, "_serve": _MOMENT, "_stopping": _MOMENT,
    },
}  # fmt: skip


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name not in PUBLIC


def own_names(nodes: list[ast.AST]) -> set[str]:
    """The names that a test file defines itself."""
    found = set()
    for node in nodes:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id == "self":
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
    nodes = list(ast.walk(ast.parse(path.read_text(), str(path))))
    own = own_names(nodes)
    names = {name for node in nodes for name in reached(node)}
    return {name for name in names if is_private(name) and name not in own}


FILES = sorted(TESTS.rglob("*.py"))


def test_private_names() -> None:
    found = {str(path.relative_to(TESTS)): private_names(path) for path in FILES}
    assert {name: names for name, names in found.items() if names} == {
        name: set(names) for name, names in ALLOWED.items()
    }


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
def test_only_private_names_of_other_objects_count(
    code: str, names: set[str], tmp_path: Path
) -> None:
    path = tmp_path / "code.py"
    path.write_text(code)
    assert private_names(path) == names
