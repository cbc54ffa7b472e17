"""Each state of a plugin, entered and left, on a real stub."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import nri_sync
from nri_sync import api, kit
from nri_sync.codes import StatusCode
from nri_sync.kit import HealthState
from nri_sync.testing import FakeRuntime, make_container, make_pod
from nri_sync.threads import spawn
from tests.kit._node import CONTAINER, LONG, POD, Node, PluginWith, eventually
from tests.patience import say_request_timeout

__all__: list[str] = []

CONNECTING, REGISTERED = HealthState.CONNECTING, HealthState.REGISTERED
SYNCHRONIZED, WEDGED = HealthState.SYNCHRONIZED, HealthState.WEDGED


@pytest.fixture
def node(socket_dir: Path) -> Iterator[Node]:
    with Node(socket_dir) as made:
        yield made


def make(node: Node, plugin: object, **options: Any) -> tuple[kit.Health, nri_sync.Stub]:
    stub_options = {name: options.pop(name) for name in ("late_reply",) if name in options}
    health = kit.Health(**options)
    stub = node.stub(plugin, interceptors=[health], **stub_options)
    return health, stub


def is_now(health: kit.Health, state: HealthState, *, ready: bool = False) -> str:
    """Check the report; returns its reason."""
    report = health.report()
    assert report[:3] == (state, state is not WEDGED, ready), report
    return report.reason


class Held:
    """A handler that returns when the test lets it."""

    def __init__(self) -> None:
        self.inside = threading.Event()
        self.may_return = threading.Event()
        self.thread = 0

    def __call__(self, *arguments: Any) -> None:
        self.thread = threading.get_ident()
        self.inside.set()
        assert self.may_return.wait(LONG)


def test_connecting_registered_synchronized_and_back(node: Node) -> None:
    health, stub = make(node, PluginWith(run_pod_sandbox=lambda pod: None))
    assert is_now(health, CONNECTING) == "the stub is idle"
    with pytest.raises(nri_sync.errors.StartError):
        stub.start()
    assert is_now(health, CONNECTING) == "the stub is idle, after 1 failed starts"

    for session in (1, 2):
        node.may_synchronize.clear()
        node.start()
        stub.start(LONG)
        assert "waiting to be synchronized" in is_now(health, REGISTERED)
        node.may_synchronize.set()
        assert node.runtime.wait_for_plugins(len, LONG)
        assert is_now(health, SYNCHRONIZED, ready=True).startswith(
            "synchronized with test-runtime v1.0.0"  # on a busy machine, more follows
        )
        assert stub.counters.sessions == session
        node.lose(stub)
        assert is_now(health, CONNECTING).startswith("the last session was lost: plugin 10-test: ")

    node.start()
    node.connect(stub)
    is_now(health, SYNCHRONIZED, ready=True)
    stub.stop()
    assert is_now(health, CONNECTING).startswith("the stub is idle")


@pytest.mark.parametrize("allowed", [False, True])
def test_a_validator_that_the_runtime_cannot_call(socket_dir: Path, allowed: bool) -> None:
    plugin = PluginWith(validate_container_adjustment=lambda request: None)
    path = str(socket_dir / "nri.sock")
    with FakeRuntime("containerd", "1.7.28-1", nri_version="v0.8.0", socket_path=path) as runtime:
        health = kit.Health(allow_unvalidated=allowed)
        stub = nri_sync.Stub(plugin, name="test", idx="10", socket_path=path, interceptors=[health])
        health.attach(stub)
        with stub:
            runtime.wait_for(lambda: runtime.plugins)
            reason = is_now(health, SYNCHRONIZED, ready=allowed)
            assert allowed or "cannot call the validator: containers are created" in reason
            assert stub.counters.unvalidated_sessions == 1
            missing = health.details()["plugin"]["missing_events"]
            assert missing == "ValidateContainerAdjustment"


class Answering:
    """A handler whose outcome the test sets."""

    def __init__(self) -> None:
        self.how = "well"

    def create_container(self, pod: Any, container: Any) -> None:
        context = nri_sync.request_context()
        if self.how == "late":
            answered = threading.Event()
            assert context.add_callback(answered.set)
            assert answered.wait(LONG)
        elif self.how == "wrong":
            raise ValueError("a bug")
        elif self.how == "rejecting":
            raise nri_sync.errors.Reject("not here")
        elif self.how == "aborting":
            context.abort(StatusCode.RESOURCE_EXHAUSTED, "no more")


class TestAnswers:
    @pytest.fixture
    def runtime(self) -> Iterator[FakeRuntime]:
        with FakeRuntime() as runtime:
            yield runtime

    @contextmanager
    def served(self, runtime: FakeRuntime, **options: Any) -> Iterator[tuple[kit.Health, Any]]:
        """Return the health of a synchronized plugin, and a function that makes it answer requests."""
        plugin, health = Answering(), kit.Health(**options)

        def ask(*how: str) -> None:
            for plugin.how in how:
                pod = make_pod()
                runtime.run_pod(pod)
                runtime.create_container(pod, make_container(pod), check=False)
                # A late answer counts when the handler has returned.
                eventually(lambda: not health.requests.running())

        with nri_sync.Stub(
            plugin, name="test", idx="10", socket_path=runtime.socket_path, interceptors=[health]
        ):
            runtime.wait_for(lambda: runtime.plugins)
            eventually(lambda: health.report().ready)
            yield health, ask
        runtime.wait_for(lambda: not runtime.plugins)

    @pytest.mark.parametrize("how", ["late", "wrong"])
    def test_late_or_failed_answers_end_readiness(
        self, runtime: FakeRuntime, how: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if how == "late":
            say_request_timeout(monkeypatch, 2.0)
        with self.served(runtime) as (health, ask):
            ask(how, how)
            is_now(health, SYNCHRONIZED, ready=True)
            ask(how)
            late, failed = (3, 0) if how == "late" else (0, 3)
            expected = f"of 3 answers in the last 300 s {late} were late and {failed} failed"
            assert is_now(health, SYNCHRONIZED) == expected
            assert health.requests.answers().share == 1
            if how == "late":
                assert health.stub is not None
                assert health.stub.late_by_event == {"CreateContainer": 3}
            # After good answers the plugin is ready again.
            ask("well", "well", "well", "well")
            is_now(health, SYNCHRONIZED, ready=True)

    def test_bad_answers_are_forgotten(self, runtime: FakeRuntime) -> None:
        with self.served(runtime, window=0.5) as (health, ask):
            ask(*3 * ["wrong"])
            eventually(lambda: health.report().ready)

    def test_refusals_are_good_answers(self, runtime: FakeRuntime) -> None:
        with self.served(runtime) as (health, ask):
            ask(*3 * ["rejecting", "aborting"])
            is_now(health, SYNCHRONIZED, ready=True)
            assert health.requests.figures()["CreateContainer"].outcomes == {"rejected": 6}

    def test_the_share_of_bad_answers_can_be_chosen_or_turned_off(
        self, runtime: FakeRuntime
    ) -> None:
        with self.served(runtime, most_unserved=None) as (health, ask):
            ask(*4 * ["wrong"])
            is_now(health, SYNCHRONIZED, ready=True)
        with self.served(runtime, most_unserved=0.2) as (health, ask):
            ask("well", "well", "wrong")
            is_now(health, SYNCHRONIZED)

    @pytest.mark.parametrize(
        "options", [{"most_unserved": 0}, {"most_unserved": 1.1}, {"window": 0}], ids=str
    )
    def test_an_invalid_option_is_refused(self, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=next(iter(options))):
            kit.Health(**options)


def test_the_state_during_a_start_and_a_stop(node: Node) -> None:
    handler = Held()
    health, stub = make(node, PluginWith(create_container=handler))
    ours, theirs = socket.socketpair()
    with theirs:
        silent = nri_sync.Stub(
            PluginWith(shutdown=lambda: None), name="t", idx="10", connection=ours
        )
        other = kit.Health()
        other.attach(silent)
        failed = threading.Event()

        def start() -> None:
            with pytest.raises(nri_sync.errors.StubStopped):
                silent.start(LONG)
            failed.set()

        spawn("start", start)
        eventually(lambda: silent.state is nri_sync.State.STARTING)
        assert "waiting to be configured" in is_now(other, CONNECTING)
        silent.stop()
        assert failed.wait(LONG)
    node.start()
    node.connect(stub)
    node.create_container()
    assert handler.inside.wait(LONG)
    spawn("stop", stub.stop, LONG)
    eventually(lambda: stub.state is nri_sync.State.STOPPING)
    assert is_now(health, CONNECTING) == "the stub is being stopped"
    handler.may_return.set()


def test_a_wedged_handler_and_its_return(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = Held()
    health, stub = make(node, PluginWith(create_container=handler))
    say_request_timeout(monkeypatch, 1.0)
    node.start()
    node.connect(stub)
    assert health.wedged_after == 2.0
    node.runtime.create_container(POD, CONTAINER)  # the stub gives a late answer
    assert handler.inside.wait(LONG)
    eventually(lambda: health.report().state is WEDGED)
    reason = is_now(health, WEDGED)
    assert reason.startswith("handlers have been running for more than 2 s: CreateContainer of ")
    assert "default/web:nginx for " in reason
    assert stub.started  # only the probe shows it
    handler.may_return.set()
    eventually(lambda: health.report().state is not WEDGED)
    is_now(health, SYNCHRONIZED, ready=True)


def test_a_handler_that_is_slow_is_not_wedged(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = Held()
    health, stub = make(node, PluginWith(create_container=handler), wedged_after=LONG)
    say_request_timeout(monkeypatch, 1.0)
    node.start()
    node.connect(stub)
    node.runtime.create_container(POD, CONTAINER)
    assert stub.counters.late_replies == 1
    is_now(health, SYNCHRONIZED, ready=True)
    handler.may_return.set()


def test_wedged_while_the_session_is_lost(node: Node) -> None:
    # The runtime closes the connection, and the plugin may reconnect. The thread still hangs.
    handler = Held()
    health, stub = make(
        node, PluginWith(create_container=handler), late_reply=False, wedged_after=0.01
    )
    node.start(request_timeout=3.0)
    node.connect(stub)
    node.runtime.create_container(POD, CONTAINER)
    assert stub.wait(LONG)
    is_now(health, WEDGED)
    node.connect(stub)
    is_now(health, WEDGED)
    handler.may_return.set()
    eventually(lambda: health.report().state is SYNCHRONIZED)


def test_several_wedged_handlers() -> None:
    health = kit.Health(wedged_after=0.001)
    barrier, done = threading.Barrier(6), threading.Event()

    def behaviour(request: Any, context: Any) -> None:
        barrier.wait(LONG)
        assert done.wait(LONG)

    request = api.RunPodSandboxRequest(pod=POD)
    context: Any = _Context()
    threads = [
        threading.Thread(target=health.serve, args=("RunPodSandbox", request, context, behaviour))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    barrier.wait(LONG)
    eventually(lambda: health.report().reason.endswith("and 2 more"))
    done.set()
    for thread in threads:
        thread.join(LONG)
    assert health.report().live


class _Context:
    def code(self) -> None:
        return None

    def is_active(self) -> bool:
        return True


def test_an_old_synchronize_does_not_speak_for_the_new_session(node: Node) -> None:
    first = Held()
    handlers: list[Any] = [first, lambda *arguments: None]
    plugin = PluginWith(synchronize=lambda pods, containers: handlers.pop(0)(pods, containers))
    health, stub = make(node, plugin, wedged_after=LONG)
    node.start()
    stub.start(LONG)
    assert first.inside.wait(LONG)
    node.lose(stub)
    node.may_synchronize.clear()
    node.start()
    stub.start(LONG)
    changed = threading.Event()

    def note() -> None:
        # Configure of the new session may notify now as well.
        if threading.get_ident() == first.thread:
            changed.set()

    health.on_change(note)
    first.may_return.set()
    assert changed.wait(LONG)
    is_now(health, REGISTERED)
    node.may_synchronize.set()
    assert node.runtime.wait_for_plugins(len, LONG)
    is_now(health, SYNCHRONIZED, ready=True)


def test_a_synchronization_that_fails_or_is_not_complete(node: Node) -> None:
    health, stub = make(node, PluginWith(run_pod_sandbox=lambda pod: None))
    node.may_synchronize.clear()
    node.start()
    stub.start(LONG)
    context: Any = _Context()

    def fail(request: Any, context: Any) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        health.serve("Synchronize", api.SynchronizeRequest(), context, fail)
    is_now(health, REGISTERED)
    health.serve("Synchronize", api.SynchronizeRequest(more=True), context, lambda *_: None)
    is_now(health, REGISTERED)
    health.serve("Synchronize", api.SynchronizeRequest(), context, lambda *_: None)
    is_now(health, SYNCHRONIZED, ready=True)


def test_further_checks(node: Node) -> None:
    answers: list[Any] = [None]

    def check() -> str | None:
        if isinstance(answers[0], Exception):
            raise answers[0]
        assert answers[0] is None or isinstance(answers[0], str)
        return answers[0]

    health, stub = make(
        node, PluginWith(run_pod_sandbox=lambda pod: None), checks=[lambda: None, check]
    )
    answers[0] = AssertionError("not asked when there is no session")
    is_now(health, CONNECTING)
    node.start()
    node.connect(stub)
    answers[0] = "still reconciling"
    assert is_now(health, SYNCHRONIZED) == "still reconciling"
    answers[0] = OSError("disk")
    assert is_now(health, SYNCHRONIZED) == "a check failed: OSError('disk')"
    answers[0] = None
    is_now(health, SYNCHRONIZED, ready=True)


def test_listeners_are_called_at_each_change(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    states: list[HealthState] = []
    may_return = threading.Event()

    def fail() -> None:
        raise ValueError("a listener's")

    def note() -> None:
        states.append(health.report().state)

    plugin = PluginWith(create_container=lambda pod, container: may_return.wait(LONG) and None)
    health, stub = make(node, plugin, wedged_after=0.5)
    health.on_change(fail)
    health.on_change(note)
    node.start()
    node.connect(stub)
    # (On a very busy machine, Configure is wedged for a moment, and notifies twice.)
    assert list(dict.fromkeys(states)) == [REGISTERED, SYNCHRONIZED]
    told = len(states)
    node.create_container()
    eventually(lambda: health.report().state is WEDGED)
    assert len(states) == told
    may_return.set()
    eventually(lambda: states[told:] == [SYNCHRONIZED])
    assert caplog.text.count("a listener of the health failed") == len(states)


def test_attaching(node: Node) -> None:
    plugin = PluginWith(run_pod_sandbox=lambda pod: None)
    health = kit.Health()
    assert is_now(health, CONNECTING) == "no stub is attached"
    assert (health.stub, health.wedged_after) == (None, 4.0)
    context: Any = _Context()
    health.serve("Synchronize", api.SynchronizeRequest(), context, lambda *_: None)
    stub = node.stub(plugin, interceptors=[health])
    health.attach(stub)
    assert health.stub is stub
    with pytest.raises(ValueError, match="each stub needs its own Health"):
        node.stub(plugin, interceptors=[health])
    for wrong in (0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="wedged_after must be positive"):
            kit.Health(wedged_after=wrong)


def test_description(node: Node) -> None:
    assert "plugin" not in json.loads(json.dumps(kit.Health().details()))
    handler = Held()
    # With late replies, the stub would measure the delay of its timer thread while the test compares it.
    health, stub = make(node, PluginWith(create_container=handler), late_reply=False)
    node.start()
    node.connect(stub)
    node.create_container()
    assert handler.inside.wait(LONG)
    found = json.loads(json.dumps(health.details()))
    assert (found["state"], found["live"], found["ready"]) == ("synchronized", True, True)
    assert found["plugin"]["name"] == "10-test"
    assert found["runtime"]["request_timeout"] == LONG
    assert found["session"] == {
        "state": "started",
        "close_reason": None,
        "timer_delay": 0.0,
    }
    assert found["counters"]["sessions"] == 1
    (running,) = found["in_flight"]
    assert (running["event"], running["subject"]) == ("CreateContainer", "default/web:nginx")
    assert {slow["event"] for slow in found["slowest"]} == {"Configure", "Synchronize"}
    handler.may_return.set()
    node.lose(stub)
    assert "10-test" in health.details()["session"]["close_reason"]
