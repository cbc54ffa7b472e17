"""The begin and end of sessions between nri_sync.Stub and the Go runtime side, for each release.

NRI_SYNC_INTEROP_RESTARTS is the number of runtime restarts; `make interop-full` sets it to 2,000.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

import nri_sync
from nri_sync import errors
from nri_sync.api import nri_pb2
from tests.interop.conftest import Connect
from tests.interop.goruntime import RELEASES, GoRuntime, Release
from tests.interop.plugins import (
    CONTAINER,
    POD,
    PROMPTLY,
    Recorder,
    Slow,
    Validator,
    padded,
    padding,
)  # fmt: skip

__all__: list[str] = []

RESTARTS = int(os.environ.get("NRI_SYNC_INTEROP_RESTARTS", "50"))

LAUNCHED = f"#!{sys.executable}\n" + textwrap.dedent(
    """
    import json, os, sys
    sys.path.insert(0, os.path.dirname(__file__) + "/../package")
    import nri_sync
    from nri_sync.api import nri_pb2

    class Plugin:
        def configure(self, config, runtime, version):
            report = {"environment": environment, "name": stub.name, "pid": os.getpid()}
            with open(config, "w") as file:
                json.dump(report, file)

        def create_container(self, pod, container):
            variable = nri_pb2.KeyValue(key="LAUNCHED", value=container.id)
            return nri_pb2.ContainerAdjustment(env=[variable])

    environment = dict(os.environ)
    stub = nri_sync.Stub(Plugin())
    stub.run()
    """
)


@pytest.mark.parametrize("release", RELEASES, ids=str)
class TestEveryRelease:
    """Behaviour with every release."""

    def test_versions(self, runtime: GoRuntime, make_stub: Connect, release: Release) -> None:
        runtime.start()
        plugin = Recorder()
        stub = make_stub(plugin)
        stub.start()
        runtime.wait_connected("10-py")
        assert plugin.expect("configure") == ("", "containerd", release.containerd)
        assert (stub.runtime_name, stub.runtime_version) == ("containerd", release.containerd)
        assert stub.runtime_nri_version == release.inferred

    def test_the_default_mask_has_the_events_of_the_runtime(
        self, runtime: GoRuntime, connect: Connect, release: Release
    ) -> None:
        runtime.start()
        stub = connect(Validator())
        everything = nri_sync.EventMask.ALL
        if release.has_pod_updates_and_validation:
            assert stub.events == everything
        else:
            assert stub.events == nri_sync.EventMask(0x7FF)

    def test_registration_refused(
        self, runtime: GoRuntime, make_stub: Connect, closed: queue.SimpleQueue[object]
    ) -> None:
        runtime.start(register_error="we do not know you")
        stub = make_stub(Recorder())
        with pytest.raises(errors.StartError, match="we do not know you") as error:
            stub.start()
        assert error.value.phase == "register"
        assert not stub.started
        runtime.call("script")
        # The Go runtime accepts its next plugin when it has given up this one.
        stub.start()
        runtime.wait_connected("10-py")
        assert closed.empty()

    def test_configure_that_raises(self, runtime: GoRuntime, make_stub: Connect) -> None:
        runtime.start()
        plugin = Recorder(configure=ValueError("bad configuration"))
        stub = make_stub(plugin)
        with pytest.raises(Exception, match="bad configuration"):
            stub.start()
        assert not stub.started
        log = runtime.wait_event("log")["data"]
        assert "bad configuration" in log["text"]
        del plugin.answers["configure"]
        stub.start()
        runtime.wait_connected("10-py")

    def test_stop_and_start(self, runtime: GoRuntime, connect: Connect) -> None:
        runtime.start()
        plugin = Recorder()
        stub = connect(plugin)
        for _ in range(20):
            stub.stop()
            runtime.wait_event("closed", name="10-py")
            stub.start()
            runtime.wait_connected("10-py")
            plugin.expect("configure")
            plugin.expect("synchronize")
        runtime.request("RunPodSandbox", pod=POD)
        plugin.expect("run_pod_sandbox")

    def test_stop_in_a_handler_answers_first(
        self, runtime: GoRuntime, connect: Connect, closed: queue.SimpleQueue[object]
    ) -> None:
        runtime.start()

        def stop_and_adjust(pod: object, container: object) -> nri_pb2.ContainerAdjustment:
            stub.stop()
            return padded(10)

        stub = connect(Recorder(create_container=stop_and_adjust))
        reply = runtime.request("CreateContainer", pod=POD, container=CONTAINER)
        assert padding(reply) == "x" * 10
        runtime.wait_event("closed", name="10-py")
        assert stub.wait(PROMPTLY)
        assert closed.empty()

    @pytest.mark.timeout(60 + RESTARTS)
    def test_the_runtime_restarts(
        self, runtime: GoRuntime, make_stub: Connect, release: Release
    ) -> None:
        failures: queue.SimpleQueue[BaseException] = queue.SimpleQueue()

        def come_back(stub: nri_sync.Stub) -> None:
            give_up = time.monotonic() + PROMPTLY
            while True:
                try:
                    stub.start()
                except errors.StartError as error:
                    if time.monotonic() > give_up:
                        failures.put(error)
                        return
                else:
                    return

        runtime.start()
        plugin = Recorder(create_container=padded(10))
        stub = make_stub(plugin, on_close=come_back)
        before = os.listdir("/proc/self/fd")
        stub.start()
        runtime.wait_connected("10-py")
        for _ in range(RESTARTS):
            runtime.take_events()
            runtime.call("restart")
            runtime.wait_connected("10-py")
            reply = runtime.request("CreateContainer", pod=POD, container=CONTAINER)
            assert padding(reply) == "x" * 10
        assert failures.empty()
        stub.stop()
        assert len(os.listdir("/proc/self/fd")) <= len(before)

    def test_the_runtime_is_killed(
        self, runtime: GoRuntime, connect: Connect, closed: queue.SimpleQueue[object]
    ) -> None:
        runtime.start()
        stub = connect(Recorder())
        runner = threading.Thread(target=stub.wait, args=(PROMPTLY,))
        runner.start()
        runtime.kill()
        assert closed.get(timeout=PROMPTLY) is not None
        runner.join(PROMPTLY)
        assert not runner.is_alive()
        assert not stub.started

    def test_launched_by_the_runtime(
        self, runtime: GoRuntime, socket_dir: Path, release: Release
    ) -> None:
        plugins, config, report = (socket_dir / name for name in ("plugins", "conf.d", "report"))
        plugins.mkdir()
        config.mkdir()
        (config / "20-launched.conf").write_text(str(report))
        executable = plugins / "20-launched"
        executable.write_text(LAUNCHED)
        executable.chmod(0o755)
        # The package under test, which may not be installed.
        (socket_dir / "package").symlink_to(Path(nri_sync.__file__).parent.parent)
        # When start() returns, the plugin is connected.
        runtime.start(plugin_path=str(plugins), config_path=str(config))
        told = json.loads(report.read_text())
        # The complete environment that the Go runtime gives to a launched plugin; Python itself may add LC_CTYPE.
        told["environment"].pop("LC_CTYPE", None)
        assert told["environment"] == {
            "NRI_PLUGIN_NAME": "launched",
            "NRI_PLUGIN_IDX": "20",
            "NRI_PLUGIN_SOCKET": "3",
        }
        assert told["name"] == "20-launched"
        reply = runtime.request("CreateContainer", pod=POD, container=CONTAINER)
        assert [(env.key, env.value) for env in reply.adjust.env] == [("LAUNCHED", "ctr0")]
        runtime.call("stop")
        with pytest.raises(ProcessLookupError):
            os.kill(told["pid"], 0)


class TestNewestRelease:
    """Behaviour of the newest release only, or independent of the release."""

    def test_synchronization_blocked(self, runtime: GoRuntime, make_stub: Connect) -> None:
        runtime.start()
        plugin = Recorder()
        stub = make_stub(plugin)
        with runtime.sync_blocked():
            stub.start()
            plugin.expect("configure")
            assert stub.started
            assert plugin.calls.empty()
        plugin.expect("synchronize")
        runtime.wait_connected("10-py")

    def test_failing_synchronize(
        self, runtime: GoRuntime, make_stub: Connect, closed: queue.SimpleQueue[object]
    ) -> None:
        runtime.start()
        stub = make_stub(Recorder(synchronize=ValueError("cannot cope")))
        stub.start()
        assert closed.get(timeout=PROMPTLY) is not None
        assert not stub.started
        assert "cannot cope" in runtime.wait_event("log")["data"]["text"]

    def test_explicit_mask(self, runtime: GoRuntime, connect: Connect) -> None:
        runtime.start(trace=True)
        mask = nri_sync.EventMask.parse("runpodsandbox,createcontainer")
        plugin = Recorder(configure=mask)
        stub = connect(plugin)
        assert stub.events == mask
        runtime.request("StopPodSandbox", pod=POD)
        runtime.request("RunPodSandbox", pod=POD)
        plugin.expect("run_pod_sandbox")
        methods = [event["data"]["method"] for event in runtime.take_events("rpc")]
        assert methods == ["Configure", "Synchronize", "RunPodSandbox"]

    def test_stop_with_grace_lets_a_handler_answer(
        self,
        runtime: GoRuntime,
        connect: Connect,
        slow: Slow,
        closed: queue.SimpleQueue[object],
    ) -> None:
        runtime.start(request_timeout_ms=20_000)
        stub = connect(slow)
        request = runtime.begin("request", op="CreateContainer", request={"container": {"id": "c"}})
        assert slow.entered.wait(PROMPTLY)
        stopper = threading.Thread(target=stub.stop, args=(PROMPTLY,))
        stopper.start()
        slow.go_on.set()
        assert request.result(PROMPTLY)["adjust"]["annotations"] == {"padding": "x" * 10}
        stopper.join(PROMPTLY)
        assert not stopper.is_alive()
        assert closed.empty()

    def test_connection_and_dialer(
        self, runtime: GoRuntime, connect: Connect, closed: queue.SimpleQueue[object]
    ) -> None:
        runtime.start()
        dialled = []

        def dial(path: str) -> socket.socket:
            dialled.append(path)
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(path)
            return sock

        given = dial(str(runtime.socket_path))
        dialled.clear()
        stub = connect(Recorder(), connection=given, dialer=dial)
        assert dialled == []
        # The given connection was for one session.
        runtime.call("restart")
        assert closed.get(timeout=PROMPTLY) is not None
        stub.start()
        runtime.wait_connected("10-py")
        assert dialled == [str(runtime.socket_path)]

    def test_run_forever(
        self, runtime: GoRuntime, release: Release, make_stub: Connect, socket_path: Path
    ) -> None:
        runtime.start()
        stub = make_stub(Recorder(create_container=padded(10)))
        enough = threading.Event()
        backoff = nri_sync.Backoff(first=0.05, most=0.2)
        loop = threading.Thread(
            target=nri_sync.run_forever,
            args=(stub,),
            kwargs={"backoff": backoff, "stop_event": enough},
        )
        loop.start()
        try:
            runtime.wait_connected("10-py")
            runtime.kill()
            with GoRuntime(release, socket_path) as another:
                another.start()
                another.wait_connected("10-py")
                reply = another.request("CreateContainer", pod=POD, container=CONTAINER)
                assert padding(reply) == "x" * 10
        finally:
            enough.set()
            stub.stop()
            loop.join(PROMPTLY)
        assert not loop.is_alive()


@pytest.mark.parametrize("release", RELEASES[2:], ids=str)
def test_an_event_named_by_itself_that_the_runtime_lacks(
    runtime: GoRuntime, make_stub: Connect
) -> None:
    runtime.start()
    stub = make_stub(Recorder(configure=nri_sync.EventMask.parse("updatepodsandbox")))
    with pytest.raises(errors.StartError, match=r"does not have .*: UpdatePodSandbox") as error:
        stub.start()
    assert error.value.phase == "configure"


@pytest.mark.parametrize("release", RELEASES[2:], ids=str)
@pytest.mark.parametrize("names", ["all", "pod", "container", "pod,createcontainer"])
def test_a_group_has_the_events_of_the_runtime(
    runtime: GoRuntime, connect: Connect, names: str
) -> None:
    runtime.start()
    mask = nri_sync.EventMask.parse(names)
    stub = connect(Validator(configure=mask))
    assert stub.events == mask & 0x7FF
