"""Plugins on a runtime for tests: how they start, how they end, and the errors that they leave behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, Callable

import grpc
import pytest

import nri_sync
from nri_sync import api, errors, kit
from nri_sync.errors import RequestFailed, StartError
from nri_sync.net.link import Link
from nri_sync.runtime import Peer
from nri_sync.runtime.registry import PluginRegistry
from nri_sync.testing import FakeRuntime, make_container, make_pod
from tests.runtime.rig import LONG, Never, PluginWith, on_thread
from tests.testing.plugins import Plugin

__all__: list[str] = []


class Counter(grpc.ServerInterceptor):
    """Counts requests."""

    def __init__(self) -> None:
        self.methods: list[str] = []

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        self.methods.append(details.method.rpartition("/")[2])
        return continuation(details)


def run(
    runtime: FakeRuntime, plugin: object, body: Callable[[nri_sync.Stub], object], **options: Any
) -> None:
    with runtime.run_plugin(plugin, **options) as stub:
        body(stub)


def never_started(stub: nri_sync.Stub) -> None:
    pytest.fail(f"{stub} has started")


class TestPlugins:
    def test_served_from_the_first_event_on(self, runtime: FakeRuntime) -> None:
        plugin = Plugin()
        for number in range(20):
            with runtime.run_plugin(plugin) as stub:
                assert runtime.plugins == ("10-test",)
                assert stub.started
                runtime.run_pod(make_pod(str(number)))
        assert plugin.pods == [str(number) for number in range(20)]

    def test_several(self, runtime: FakeRuntime) -> None:
        one, other = Plugin(), Plugin()
        with runtime.run_plugin(one, name="b", idx="20"):
            with runtime.run_plugin(other, name="a", idx="10"):
                assert runtime.plugins == ("10-a", "20-b")
                runtime.run_pod(make_pod("web"))
            assert runtime.plugins[-1] == "20-b"
        assert (one.pods, other.pods) == (["web"], ["web"])

    def test_synchronized_with_the_existing_state(self, runtime: FakeRuntime) -> None:
        pod = make_pod("web")
        container = make_container(pod, "app")
        runtime.add(pod, container)
        plugin = Plugin()
        with runtime.run_plugin(plugin):
            assert plugin.synchronized == [([pod], [container])]

    def test_synchronized_in_parts(self) -> None:
        pods = [make_pod("one"), make_pod("two")]
        containers = [make_container(pod, name) for pod in pods for name in ("a", "b")]
        plugin = Plugin()
        counter = Counter()
        with FakeRuntime(split_sync=True) as runtime:
            runtime.add(*pods, *containers)
            with runtime.run_plugin(plugin, interceptors=[counter]):
                assert plugin.synchronized == [(pods, containers)]
        assert counter.methods.count("Synchronize") == 4

    def test_updates_that_synchronization_asks_for(self, runtime: FakeRuntime) -> None:
        pod = make_pod()
        container = make_container(pod)
        runtime.add(pod, container)
        update = api.Update(container.id).set_cpu(shares=9)
        with runtime.run_plugin(PluginWith(synchronize=lambda pods, containers: [update])):
            assert runtime.container(container).linux.resources.cpu.shares.value == 9
        assert runtime.updates == []

    def test_a_plugin_that_cannot_start(self, runtime: FakeRuntime) -> None:
        def configure(config: str, runtime: str, version: str) -> None:
            raise KeyError("no configuration")

        plugin = PluginWith(configure=configure, run_pod_sandbox=lambda pod: None)
        with pytest.raises(StartError, match="configure failed: KeyError"):
            run(runtime, plugin, never_started)

    def test_a_plugin_that_is_not_synchronized(self, runtime: FakeRuntime) -> None:
        error = KeyError("no state, please")

        def synchronize(pods: Any, containers: Any) -> None:
            raise error

        with pytest.raises(
            AssertionError, match="10-test was not synchronized: KeyError"
        ) as raised:
            run(runtime, PluginWith(synchronize=synchronize), never_started)
        assert raised.value.__cause__ is error

    def test_a_plugin_with_a_refused_answer(
        self, runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(update: api.ContainerUpdate) -> bool:
            raise ValueError("cannot do that")

        monkeypatch.setattr(runtime._node, "update", refuse)
        update = api.Update("c").set_cpu(shares=1)
        plugin = PluginWith(synchronize=lambda pods, containers: [update])
        with pytest.raises(AssertionError, match="10-test was not synchronized"):
            run(runtime, plugin, never_started)

    def test_a_plugin_that_stops_by_itself(self, runtime: FakeRuntime) -> None:
        plugin: Any = PluginWith()
        plugin.synchronize = lambda pods, containers: plugin.stub.stop()
        run(runtime, plugin, lambda stub: stub.wait(LONG))
        assert plugin.stub.close_reason is None
        assert plugin.stub.state is nri_sync.State.IDLE

    def test_a_plugin_that_takes_too_long(self, runtime: FakeRuntime) -> None:
        never = Never()
        with pytest.raises(AssertionError, match="not within 2 s"):
            run(runtime, PluginWith(synchronize=never), never_started, timeout=2.0)
        never.release.set()

    def test_cut_off(self, runtime: FakeRuntime) -> None:
        closed: list[nri_sync.Stub] = []
        called = threading.Event()

        def on_close(stub: nri_sync.Stub) -> None:
            closed.append(stub)
            called.set()

        with runtime.run_plugin(Plugin(), on_close=on_close) as stub:
            runtime.disconnect(stub)
            assert runtime.plugins == ()
            assert called.wait(LONG)
            assert closed == [stub]
            stub.start(LONG)
            runtime.wait_for(lambda: runtime.plugins)
            runtime.disconnect("10-test")
            assert stub.wait(LONG)
            with pytest.raises(ValueError, match="plugin 10-test is not connected"):
                runtime.disconnect(stub)

    def test_back_after_a_restart(self, runtime: FakeRuntime) -> None:
        pod = make_pod("web")
        runtime.run_pod(pod)
        plugin = Plugin()
        ready = threading.Event()

        def on_close(stub: nri_sync.Stub) -> None:
            assert ready.wait(LONG)
            stub.start(LONG)

        with runtime.run_plugin(plugin, on_close=on_close):
            runtime.restart()
            ready.set()
            runtime.wait_for(lambda: "10-test" in runtime.plugins)
            assert [pods for pods, _ in plugin.synchronized] == [[pod], [pod]]

    def test_started_by_several_threads_at_once(self, runtime: FakeRuntime) -> None:
        plugins = [Plugin() for _ in range(8)]
        barrier = threading.Barrier(len(plugins))

        def run(number: int) -> None:
            barrier.wait(LONG)
            with runtime.run_plugin(plugins[number], name=f"p{number}"):
                barrier.wait(LONG)
                if number == 0:
                    runtime.run_pod(make_pod("web"))
                barrier.wait(LONG)

        threads = [threading.Thread(target=run, args=(number,)) for number in range(len(plugins))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG)
        assert [plugin.pods for plugin in plugins] == [["web"]] * len(plugins)


class HeldBack:
    """Delays the moment at which a runtime notices disconnected plugins, until it is released."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.noticing = threading.Event()
        self.release = threading.Event()
        left = PluginRegistry._on_disconnect

        def held(registry: PluginRegistry, peer: Any, cause: Any) -> None:
            self.noticing.set()
            assert self.release.wait(LONG)
            left(registry, peer, cause)

        monkeypatch.setattr(PluginRegistry, "_on_disconnect", held)

    def expect_blocked(self, leave: Callable[[], object]) -> None:
        """Call ``leave()`` on a thread. It must block until the runtime notices the disconnection."""
        left = threading.Event()

        def run() -> None:
            leave()
            left.set()

        done = on_thread(run)
        assert self.noticing.wait(LONG)
        assert not left.is_set()
        self.release.set()
        done()


class TestWaitForTheRuntime:
    """A runtime notices a disconnection on another thread. Events that follow must not reach the plugin."""

    @pytest.fixture
    def held(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[HeldBack]:
        held = HeldBack(monkeypatch)
        yield held
        held.release.set()

    def test_the_exit_blocks_until_the_runtime_has_removed_the_plugin(
        self, held: HeldBack, runtime: FakeRuntime
    ) -> None:
        plugin = Plugin()

        def run_and_leave() -> None:
            with runtime.run_plugin(plugin):
                pass

        held.expect_blocked(run_and_leave)
        with pytest.raises(ValueError, match="10-test is not connected"):
            runtime.disconnect("10-test")
        runtime.run_pod(make_pod("web"))
        assert plugin.pods == []

    def test_the_exit_blocks_after_an_exception_of_the_block_too(
        self, held: HeldBack, runtime: FakeRuntime
    ) -> None:
        def run_and_leave() -> None:
            with pytest.raises(KeyError), runtime.run_plugin(Plugin()):
                raise KeyError

        held.expect_blocked(run_and_leave)

    def test_a_disconnected_plugin_is_not_listed(
        self, held: HeldBack, runtime: FakeRuntime
    ) -> None:
        """Neither is a plugin of the same name that is not synchronized yet."""
        with runtime.run_plugin(Plugin()) as stub:
            stub.stop()
            assert runtime.plugins == ()
            assert runtime._started().plugins == ()
            stub.start(LONG)
            runtime.wait_for(lambda: runtime.plugins == ("10-test",))
            held.release.set()

    def test_an_event_waits_until_a_plugin_that_has_stopped_is_gone(
        self, runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Otherwise the runtime would send it the event; its failure policy would then fail the event."""
        asked, release = threading.Event(), threading.Event()
        end, begin = Link._end, Peer._begin

        def held(link: Link, cause: Any) -> None:
            # The reader has noticed the end. Other threads have not.
            if link.name.startswith("nri-plugin-"):
                assert release.wait(LONG)
            end(link, cause)

        def ask(peer: Peer, *arguments: Any, **options: Any) -> Any:
            asked.set()
            return begin(peer, *arguments, **options)

        with runtime.run_plugin(
            Plugin(), failure_policy=api.FailurePolicy(fail_request=True)
        ) as stub:
            monkeypatch.setattr(Link, "_end", held)
            stub.stop()
            monkeypatch.setattr(Peer, "_begin", ask)
            answered = on_thread(lambda: runtime.run_pod(make_pod()))
            # No signal shows that the event waits. The test gives it a moment in which it could go wrong.
            asked.wait(0.1)
            release.set()
            assert answered().answers == ()
            assert not asked.is_set()

    def test_cut_off_and_back_before_the_runtime_has_noticed(
        self, held: HeldBack, runtime: FakeRuntime
    ) -> None:
        back = threading.Event()

        def on_close(stub: nri_sync.Stub) -> None:
            stub.start(LONG)
            runtime.wait_for(lambda: runtime.plugins == ("10-test",))
            back.set()
            held.release.set()

        with runtime.run_plugin(Plugin(), on_close=on_close) as stub:
            runtime.disconnect(stub)
            assert back.wait(LONG)
            assert runtime.plugins == ("10-test",)

    @pytest.mark.parametrize("how", ["disconnect", "stop", "restart"])
    def test_a_stub_has_noticed_its_disconnection(
        self, runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch, how: str
    ) -> None:
        """A test may therefore start it again at once."""
        noticing, release = threading.Event(), threading.Event()
        end = Link._end

        def held(link: Link, cause: Any) -> None:
            if not link.name.startswith("nri-plugin-"):
                noticing.set()
                assert release.wait(LONG)
            end(link, cause)

        monkeypatch.setattr(Link, "_end", held)
        returned = threading.Event()

        def cut() -> None:
            arguments = [stub] if how == "disconnect" else []
            getattr(runtime, how)(*arguments)
            returned.set()

        with runtime.run_plugin(Plugin()) as stub:
            done = on_thread(cut)
            try:
                assert noticing.wait(LONG)
                # The call must not return. (If it has not begun yet, this proves nothing.)
                assert not returned.wait(0.1)
            finally:
                release.set()
            done()
            assert not stub.started
            if how != "stop":
                stub.start(LONG)
                runtime.wait_for(lambda: runtime.plugins)

    def test_the_end_of_a_test_does_not_wait_for_stopped_plugins(self, held: HeldBack) -> None:
        with FakeRuntime() as runtime:
            with nri_sync.Stub(Plugin(), name="test", idx="10", socket_path=runtime.socket_path):
                runtime.wait_for(lambda: runtime.plugins)
            assert runtime._left(runtime._started()) == ()
            held.release.set()

    def test_a_plugin_that_the_runtime_does_not_remove_in_time(
        self, held: HeldBack, runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("nri_sync.testing.fake.LET_GO_WITHIN", 0.1)
        with pytest.raises(AssertionError, match="the removal of disconnected plugins"):
            run(runtime, Plugin(), lambda stub: None)
        held.release.set()


class TestAtTheEnd:
    """Errors and handlers that a plugin leaves behind when it is stopped."""

    def test_an_exception_that_failed_no_event_fails_the_test(self, runtime: FakeRuntime) -> None:
        error = ValueError("in the background")
        closed = threading.Event()
        states: list[Any] = []

        def synchronize(pods: Any, containers: Any) -> None:
            states.append(pods)
            if len(states) > 1:
                raise error

        def again(stub: nri_sync.Stub) -> None:
            stub.stop()
            stub.start(LONG)
            assert closed.wait(LONG)

        plugin = PluginWith(synchronize=synchronize)
        with pytest.raises(AssertionError, match="handler of plugin 10-test has raised") as raised:
            run(runtime, plugin, again, on_close=lambda stub: closed.set())
        assert raised.value.__cause__ is error

    def test_an_exception_that_the_test_has_seen(self, runtime: FakeRuntime) -> None:
        def fail(pod: Any) -> None:
            raise ValueError("seen")

        with runtime.run_plugin(PluginWith(run_pod_sandbox=fail)):
            with pytest.raises(RequestFailed, match="seen"):
                runtime.run_pod(make_pod())
            runtime.run_pod(make_pod(), check=False)

    def test_a_handler_that_still_runs(
        self, runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        never = Never()
        monkeypatch.setattr("nri_sync.testing.watch.WITHIN", 0.1)
        # Also the grace of the stop: the handler ends after neither.
        monkeypatch.setattr("nri_sync.testing.running.WITHIN", 0.1)
        options = {"check": False}
        sender = threading.Thread(target=runtime.run_pod, args=(make_pod(),), kwargs=options)

        def begin(stub: nri_sync.Stub) -> None:
            sender.start()
            assert never.called.wait(LONG)

        with pytest.raises(
            AssertionError, match="was stopped, but its handlers still run: RunPodSandbox"
        ):
            run(runtime, PluginWith(run_pod_sandbox=never), begin)
        never.release.set()
        sender.join(LONG)

    def test_a_reconnect_loop_cannot_go_on(self, runtime: FakeRuntime) -> None:
        stubs: list[nri_sync.Stub] = []
        run(runtime, Plugin(), stubs.append)
        with pytest.raises(errors.StubClosed):
            stubs[0].start(LONG)

    def test_interceptors_are_closed_while_the_plugin_is_connected(
        self, runtime: FakeRuntime
    ) -> None:
        updates = kit.UpdateQueue()
        futures: list[kit.PendingUpdate] = []

        def put(stub: nri_sync.Stub) -> None:
            pod = make_pod()
            runtime.run_pod(pod)
            runtime.create_container(pod, make_container(pod, id="c"))
            futures.append(updates.put(api.Update("c").set_memory(limit=1 << 20)))

        run(runtime, Plugin(), put, interceptors=[updates])
        futures[0].result(0)
        assert [update.container_id for update in runtime.updates] == ["c"]
        with pytest.raises(errors.QueueClosed):
            updates.put(api.Update("c"))

    def test_the_exception_of_the_test_stands_alone(self, runtime: FakeRuntime) -> None:
        closed = threading.Event()
        states: list[Any] = []

        def synchronize(pods: Any, containers: Any) -> None:
            states.append(pods)
            if len(states) > 1:
                raise ValueError("in the background")

        def again(stub: nri_sync.Stub) -> None:
            stub.stop()
            stub.start(LONG)
            assert closed.wait(LONG)
            raise KeyError

        plugin = PluginWith(synchronize=synchronize)
        with pytest.raises(KeyError) as raised:
            run(runtime, plugin, again, on_close=lambda stub: closed.set())
        assert raised.value.__context__ is None
