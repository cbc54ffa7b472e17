"""The examples without a Go counterpart, on the Go runtime side."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.embedded_service.plugin import LimitService
from examples.pod_cache.plugin import PodCache
from nri_sync import api, kit
from tests.examples.test_ca_bundles import CERTIFICATE
from tests.interop.conftest import Connect
from tests.interop.gopeer import PeerError
from tests.interop.goruntime import RELEASES, GoRuntime, Release
from tests.interop.plugins import PROMPTLY

__all__: list[str] = []

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
# The newest release and the oldest.
pytestmark = pytest.mark.parametrize("release", [RELEASES[0], RELEASES[-1]], ids=str)


@pytest.fixture
def runtime(runtime: GoRuntime, release: Release) -> GoRuntime:
    # Older pytest releases pass a parameter of an overridden fixture only if the new fixture requests it, too.
    runtime.start()
    return runtime


@contextlib.contextmanager
def program(runtime: GoRuntime, name: str, full_name: str, **config: Any) -> Iterator[None]:
    """An example as a separate process, with that configuration. It must end without an error."""
    directory = runtime.socket_path.parent
    file = directory / "config.json"
    file.write_text(json.dumps(config))
    command = [sys.executable, str(EXAMPLES / name / "plugin.py"), "--config", str(file)]
    running = subprocess.Popen([*command, "--socket", str(runtime.socket_path)])
    try:
        runtime.wait_connected(full_name)
        yield
        running.send_signal(signal.SIGTERM)
        assert running.wait(PROMPTLY) == 0
    finally:
        running.kill()
        running.wait()


def pod(**annotations: str) -> api.PodSandbox:
    return api.PodSandbox(
        id="pod0",
        name="pod",
        uid="uid0",
        namespace="shop",
        ips=["10.0.0.1"],
        annotations=annotations,
    )


def container(number: int = 0) -> api.Container:
    return api.Container(
        id=f"ctr{number}",
        pod_sandbox_id="pod0",
        name="main",
        annotations={"io.kubernetes.cri.image-name": "docker.io/library/nginx:1"},
    )


def create(
    runtime: GoRuntime, pod: api.PodSandbox, container: api.Container
) -> api.CreateContainerResponse:
    reply: api.CreateContainerResponse = runtime.request(
        "CreateContainer", pod=pod, container=container
    )
    return reply


def env_of(reply: api.CreateContainerResponse) -> dict[str, str]:
    return {entry.key: entry.value for entry in reply.adjust.env}


class TestPrograms:
    def test_annotation_injector(self, runtime: GoRuntime) -> None:
        asks = pod(**{"env.inject.example.com/container.main": "A: b"})
        with program(runtime, "annotation_injector", "10-annotation-injector", namespaces=["shop"]):
            for _ in range(2):
                assert env_of(create(runtime, asks, container())) == {"A": "b"}
                runtime.call("restart")
                runtime.wait_connected("10-annotation-injector")

    def test_ca_bundles(self, runtime: GoRuntime, tmp_path: Path) -> None:
        (tmp_path / "ca.pem").write_text(CERTIFICATE)
        bundle = str(tmp_path / "ca.pem")
        with program(runtime, "ca_bundles", "10-ca-bundles", bundle=bundle, namespaces=["s*"]):
            reply = create(runtime, pod(), container())
        assert env_of(reply)["SSL_CERT_FILE"] == "/run/ca-bundles/ca.pem"
        assert [mount.source for mount in reply.adjust.mounts] == [str(tmp_path)]

    def test_memory_qos(self, runtime: GoRuntime) -> None:
        classes = [{"name": "bronze", "swaplimitratio": 0.5}]
        limited = container()
        api.optional.put(limited.linux.resources.memory, "limit", 1000)
        with program(runtime, "memory_qos", "40-memory-qos", classes=classes):
            reply = create(runtime, pod(**{"class.memory-qos.nri.io": "bronze"}), limited)
        wanted = {"memory.high": "500", "memory.swap.max": "max"}
        assert dict(reply.adjust.linux.resources.unified) == wanted

    def test_cpu_pinning(self, runtime: GoRuntime, tmp_path: Path) -> None:
        system = tmp_path / "devices/system/cpu"
        for cpu in range(4):
            (system / f"cpu{cpu}/topology").mkdir(parents=True)
            (system / f"cpu{cpu}/topology/thread_siblings_list").write_text(str(cpu))
        (system / "online").write_text("0-3\n")
        key = "exclusive-cpus.pinning.example.com/container.main"
        with program(runtime, "cpu_pinning", "90-cpu-pinning", sys=str(tmp_path)):
            shared = create(runtime, api.PodSandbox(id="pod0"), container(0))
            pinned = create(runtime, pod(**{key: "2"}), container(1))
            resources = api.LinuxResources(cpu=api.LinuxCPU(cpus="0-3"))
            updated = runtime.request(
                "UpdateContainer", pod=pod(), container=container(1), linux_resources=resources
            )
        assert shared.adjust.linux.resources.cpu.cpus == "0-3"
        assert pinned.adjust.linux.resources.cpu.cpus == "1-2"
        (other,) = pinned.update
        assert (other.container_id, other.linux.resources.cpu.cpus) == ("ctr0", "0,3")
        (own,) = updated.update
        assert (own.container_id, own.linux.resources.cpu.cpus) == ("ctr1", "1-2")

    def test_image_policy(self, runtime: GoRuntime) -> None:
        policy = program(runtime, "image_policy", "95-image-policy", allow=["reg/*"], fail="closed")
        with policy, pytest.raises(PeerError, match="library/nginx is not allowed"):
            create(runtime, pod(), container())

    def test_slow_hook(self, runtime: GoRuntime, tmp_path: Path) -> None:
        options = {
            "sets": ["weather"],
            "command": ["sh", "-c", 'sleep 0.3; echo "$1" >"$2/name"', "fetch"],
            "data": str(tmp_path / "data"),
            "outcomes": str(tmp_path / "outcomes"),
        }
        with program(runtime, "slow_hook", "20-slow-hook", **options):
            reply = create(runtime, pod(**{"set.data.example.com": "weather"}), container())
            (hook,) = reply.adjust.hooks.create_runtime
            subprocess.run(hook.args, executable=hook.path, check=True, timeout=PROMPTLY)
        assert (tmp_path / "data/weather/name").read_text() == "weather\n"


class TestInThisProcess:
    def test_pod_cache(self, runtime: GoRuntime, make_stub: Connect) -> None:
        cache = PodCache("127.0.0.1", 0)
        stub = make_stub(cache)
        try:
            for _ in range(2):
                stub.start()
                runtime.wait_connected(stub.name)
                runtime.request("RunPodSandbox", pod=pod())
                # NRI v0.8 and newer send addresses.
                assert ask(f"http://{cache.address}/pod/shop/pod")["uid"] == "uid0"
                runtime.call("restart")
                stub.wait()
        finally:
            cache.on_stop()

    def test_embedded_service(self, runtime: GoRuntime) -> None:
        path = str(runtime.socket_path)
        service = LimitService("127.0.0.1", 0, retry=0.05, socket_path=path)
        service.serve()
        try:
            for _ in range(2):
                runtime.wait_connected("50-limits")
                assert ask(f"http://{service.address}/shop", "64Mi")["applied"]
                reply = create(runtime, pod(), container())
                memory = reply.adjust.linux.resources.memory
                assert memory.limit.value == int(kit.Quantity.parse("64Mi"))
                runtime.call("restart")
        finally:
            service.close()


def ask(url: str, body: str | None = None) -> Any:
    data = None if body is None else body.encode()
    request = urllib.request.Request(url, data, method="GET" if body is None else "PUT")
    with urllib.request.urlopen(request) as response:
        return json.load(response)
