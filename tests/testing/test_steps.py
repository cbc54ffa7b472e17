"""The steps of scripts, executed with stubs; and all hostile sessions with a plugin that has to reconnect."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable

import pytest

import nri_sync
from nri_sync import Backoff, Stub, api, run_forever
from nri_sync.codes import StatusCode
from nri_sync.errors import CallFailed, ConnectionLost, StartError, StartTimeout
from nri_sync.testing import ScriptedRuntime, hostile_sessions, make_container, make_pod, steps
from tests.runtime.rig import LONG, Never, PluginWith

__all__: list[str] = []


class Plugin:
    def __init__(self) -> None:
        self.configured: tuple[str, ...] = ()
        self.synchronized: list[tuple[list[str], list[str]]] = []
        self.pods: list[str] = []

    def configure(self, config: str, runtime: str, version: str) -> None:
        self.configured = (config, runtime, version)

    def synchronize(self, pods: Any, containers: Any) -> None:
        self.synchronized.append(([pod.name for pod in pods], [item.name for item in containers]))

    def run_pod_sandbox(self, pod: api.PodSandbox) -> None:
        if pod.name == "bad":
            raise ValueError("bad pod")
        self.pods.append(pod.name)


def make_stub(runtime: ScriptedRuntime, plugin: object, **options: Any) -> Stub:
    return Stub(plugin, name="test", idx="10", socket_path=runtime.socket_path, **options)


@contextmanager
def running(stub: Stub, **options: Any) -> Iterator[None]:
    """Run run_forever() in the block."""
    stopped = threading.Event()
    backoff = Backoff(0.01, most=0.05)
    target: Callable[..., None] = run_forever
    options = {"backoff": backoff, "stop_event": stopped, **options}
    loop = threading.Thread(target=target, args=(stub,), kwargs=options)
    loop.start()
    try:
        yield
    finally:
        stopped.set()
        stub.stop()
        loop.join(LONG)


class TestInOrder:
    def test_all_that_a_plugin_is_to_see(self) -> None:
        pod = make_pod("old")
        script = [
            steps.register(),
            steps.configure(config="a: b", name="cri-o", version="1.36.0", request_timeout=3.5),
            steps.synchronize([pod], [make_container(pod, "one")], more=True),
            steps.synchronize([], [make_container(pod, "two")]),
            steps.event("RunPodSandbox", times=2, pod=make_pod("web")),
            steps.event("RunPodSandbox", pod=make_pod("bad")),
            steps.mark("told"),
            steps.serve(),
        ]
        plugin = Plugin()
        with ScriptedRuntime(script) as runtime, make_stub(runtime, plugin) as stub:
            runtime.wait("told")
            assert stub.request_timeout == 3.5
        assert plugin.configured == ("a: b", "cri-o", "1.36.0")
        assert plugin.synchronized == [(["old"], ["one", "two"])]
        assert plugin.pods == ["web", "web"]
        assert [rpc for rpc, _ in runtime.answers] == [
            "Configure", "Synchronize", "Synchronize", *["RunPodSandbox"] * 3
        ]  # fmt: skip
        assert runtime.answers[1][1].more
        assert isinstance(runtime.answers[-1][1], CallFailed)
        # Check these lines only: the script may or may not have noticed that the plugin disconnected.
        assert [line for line in runtime.log if "bad pod" in line]

    def test_updates_are_served(self) -> None:
        with ScriptedRuntime([steps.start_session(), steps.serve()]) as runtime:
            with make_stub(runtime, Plugin()) as stub:
                assert stub.update_containers([api.Update("c").set_cpu(shares=1)]) == []
            runtime.wait()
        [request] = runtime.updates
        assert request.update[0].container_id == "c"


class TestOutOfOrder:
    def test_refused(self) -> None:
        with ScriptedRuntime([steps.register(refuse="no plugins today")]) as runtime:
            stub = make_stub(runtime, Plugin())
            with pytest.raises(StartError, match="no plugins today") as raised:
                stub.start(LONG)
        assert raised.value.phase == "register"

    @pytest.mark.parametrize(
        ("session", "phase"),
        [
            ([steps.cut()], "register"),
            ([steps.register(answered=False), steps.cut()], "register"),
            ([steps.register(), steps.cut()], "configure"),
            ([steps.garbage(), steps.silence()], "register"),
            ([steps.send(b"\xff" * 8), steps.silence()], "register"),
        ],
    )
    def test_cut_off_while_starting(self, session: list[steps.Step], phase: str) -> None:
        with ScriptedRuntime(session) as runtime:
            with pytest.raises(StartError) as raised:
                make_stub(runtime, Plugin()).start(LONG)
            runtime.wait()
        assert raised.value.phase == phase

    @pytest.mark.parametrize("session", [[steps.silence()], [steps.register(), steps.silence()]])
    def test_silent(self, session: list[steps.Step]) -> None:
        with ScriptedRuntime(session) as runtime:
            with pytest.raises(StartTimeout):
                make_stub(runtime, Plugin()).start(2.0)
            runtime.wait()

    def test_cut_off_in_a_handler(self) -> None:
        never = Never()
        request = steps.event("RunPodSandbox", answered=False, pod=make_pod())
        with ScriptedRuntime(
            [steps.start_session(), request, steps.hold("sent"), steps.cut()]
        ) as runtime:
            stub = make_stub(runtime, PluginWith(run_pod_sandbox=never))
            stub.start(LONG)
            assert never.called.wait(LONG)
            runtime.release("sent")
            assert stub.wait(LONG)
            never.release.set()
        assert isinstance(stub.close_reason, ConnectionLost)

    def test_cut_off_in_mid_message(self) -> None:
        plugin = Plugin()
        session = [
            steps.start_session(),
            steps.fragment("RunPodSandbox", pod=make_pod()),
            steps.cut(),
        ]
        with ScriptedRuntime(session) as runtime:
            stub = make_stub(runtime, plugin)
            stub.start(LONG)
            assert stub.wait(LONG)
        assert isinstance(stub.close_reason, ConnectionLost)
        assert plugin.pods == []

    def test_oversized(self) -> None:
        plugin = Plugin()
        run = steps.event("RunPodSandbox", pod=make_pod("web"))
        with ScriptedRuntime([steps.start_session(), steps.oversized(), run]) as runtime:
            stub = make_stub(runtime, plugin)
            stub.start(LONG)
            runtime.wait()
            assert stub.wait(LONG)
        assert runtime.answers[2][1].code() is StatusCode.RESOURCE_EXHAUSTED
        assert plugin.pods == ["web"]

    def test_slow(self) -> None:
        slow = [steps.pause(0.3), steps.register(), steps.hold("configure"), steps.start_session()]
        with ScriptedRuntime(slow) as runtime:
            with pytest.raises(StartTimeout):
                make_stub(runtime, Plugin()).start(0.1)
            runtime.release("configure")


class TestMistakes:
    def test_known_at_once(self) -> None:
        with pytest.raises(ValueError, match="'RunPod' is not one of the RPCs of plugins"):
            steps.event("RunPod")
        with pytest.raises(ValueError, match="pods"):
            steps.event("RunPodSandbox", pods=[])
        with pytest.raises(ValueError, match="'RunPod' is not one of the RPCs of plugins"):
            steps.fragment("RunPod")

    def test_steps_have_names(self) -> None:
        session = [steps.start_session(), steps.garbage(), steps.mark("x"), steps.pause(0.5)]
        assert repr(session) == "[start_session, garbage, mark 'x', pause of 0.5 s]"


@pytest.mark.parametrize("name", hostile_sessions())
def test_a_plugin_that_comes_back_after_all_of_it(name: str) -> None:
    plugin = Plugin()
    new = steps.event("RunPodSandbox", pod=make_pod("after"))
    reasons: list[Exception] = []
    # The stub waits for the whole timeout only if the runtime is silent. The next session has to start within it.
    timeout = 4.0 if "silent" in name else LONG
    with ScriptedRuntime(
        hostile_sessions()[name],
        steps.down(until="lost"),
        [steps.start_session(), new, steps.mark("back"), steps.serve()],
    ) as runtime:
        stub = make_stub(runtime, plugin, registration_timeout=timeout)

        def on_disconnected(stub: nri_sync.Stub, reason: Exception) -> None:
            reasons.append(reason)
            runtime.release("lost")

        with running(stub, on_disconnected=on_disconnected):
            runtime.wait("back")
    assert plugin.pods[-1] == "after"
    assert reasons
    assert isinstance(reasons[0], (StartError, ConnectionLost))
