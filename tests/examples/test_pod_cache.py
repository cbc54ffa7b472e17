"""Requests about pods, and correct responses across restarts."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.pod_cache.plugin import PodCache
from nri_sync import kit
from nri_sync.testing import FakeRuntime, make_container, make_pod
from tests.examples.attached import run_attached, run_program, wait_until_asked

__all__: list[str] = []


class Client:
    def __init__(self, cache: PodCache) -> None:
        self.address = cache.address
        self.stale = ""

    def get(self, path: str) -> Any:
        """Return the response, or its status if it is an error."""
        try:
            with urllib.request.urlopen(f"http://{self.address}{path}") as response:
                self.stale = response.headers["X-Stale"]
                return json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def name(self, path: str) -> Any:
        found = self.get(path)
        return found["name"] if isinstance(found, dict) else found


@pytest.fixture
def cache() -> Iterator[PodCache]:
    cache = PodCache("127.0.0.1", 0)
    yield cache
    cache.on_stop()


@pytest.fixture
def client(cache: PodCache) -> Client:
    return Client(cache)


def test_all_questions(nri_runtime: FakeRuntime, cache: PodCache, client: Client) -> None:
    pod = make_pod("web", labels={"app": "web"}, ips=["10.0.0.1", "fd00::1"])
    with run_attached(nri_runtime, cache):
        nri_runtime.run_pod(pod)
        app, log = (make_container(pod, name) for name in ("app", "log"))
        for container in (app, log):
            nri_runtime.create_container(pod, container)
        nri_runtime.start_container(app)
        pid = nri_runtime.container(app).pid

        found = client.get("/ip/10.0.0.1")
        assert (found["namespace"], found["name"], found["uid"]) == ("default", "web", pod.uid)
        assert found["labels"]["app"] == "web"
        assert set(found["containers"]) == {"app", "log"}
        assert client.get("/ip/fd00::1") == client.get("/pod/default/web") == found
        assert client.get("/pods") == [found]

        by_process = client.get(f"/pid/{pid}")
        assert by_process["containers"] == {"app": {"id": app.id, "pid": pid, "stopped": False}}
        path = kit.container_cgroup(app)
        assert client.get(f"/cgroup{path}") == client.get(f"/cgroup{path}/below") == by_process
        assert set(client.get(f"/cgroup{kit.pod_cgroup(pod)}")["containers"]) == {"app", "log"}

        nri_runtime.stop_container(app)
        assert client.get("/pod/default/web")["containers"]["app"]["stopped"]
        nri_runtime.remove_pod(pod)
        assert client.get("/ip/10.0.0.1") == 404
        assert client.get("/pods") == []


@pytest.mark.parametrize(
    ("path", "status"),
    [("/ip/10.9.9.9", 404), ("/pod/a/b", 404), ("/pod/a", 400), ("/pid/x", 400), ("/", 400),
     ("/pid/999999999", 400), ("/cgroup/none", 404)],
)  # fmt: skip
def test_questions_without_an_answer(client: Client, path: str, status: int) -> None:
    assert client.get(path) == status


def test_any_process(
    nri_runtime: FakeRuntime, cache: PodCache, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = make_pod("web")
    container = make_container(pod, "app")
    nri_runtime.add(pod, container)
    cgroups = {77: f"{kit.container_cgroup(container)}/worker", 78: "/user.slice"}
    monkeypatch.setattr(kit, "process_cgroup", cgroups.__getitem__)
    with run_attached(nri_runtime, cache):
        assert set(client.get("/pid/77")["containers"]) == {"app"}
        assert client.get("/pid/78") == 404


def test_the_runtime_is_restarted(
    nri_runtime: FakeRuntime, cache: PodCache, client: Client
) -> None:
    stays, goes = make_pod("stays", ips=["10.0.0.1"]), make_pod("goes", ips=["10.0.0.2"])
    with run_attached(nri_runtime, cache) as stub:
        for pod in (stays, goes):
            nri_runtime.run_pod(pod)
        nri_runtime.stop()
        stub.wait()
        # The former state is still served.
        assert client.name("/ip/10.0.0.2") == "goes"
        nri_runtime.start()
        nri_runtime.remove_pod(goes)
        nri_runtime.run_pod(make_pod("comes", ips=["10.0.0.2"]))
        stub.start()
        wait_until_asked(nri_runtime)
        assert client.name("/ip/10.0.0.1") == "stays"
        assert client.name("/ip/10.0.0.2") == "comes"
        assert client.get("/pod/default/goes") == 404
        assert client.stale == "false"


def test_the_plugin_is_restarted(
    nri_runtime: FakeRuntime, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "pod-cache")
    pod = make_pod("web", ips=["10.0.0.1"])

    def new_cache() -> PodCache:
        return PodCache("127.0.0.1", 0, kit.InventoryStore(tmp_path / "pods.db"))

    cache = new_cache()
    with run_attached(nri_runtime, cache):
        nri_runtime.run_pod(pod)
    cache.on_stop()
    nri_runtime.remove_pod(pod)
    cache = new_cache()
    try:
        client = Client(cache)
        assert client.name("/ip/10.0.0.1") == "web"
        assert client.stale == "true"
        with run_attached(nri_runtime, cache):
            assert client.get("/ip/10.0.0.1") == 404
        assert "default/web is gone, with 10.0.0.1" in caplog.text
    finally:
        cache.on_stop()


def test_the_program(nri_runtime: FakeRuntime, tmp_path: Path) -> None:
    nri_runtime.add(make_pod())
    with run_program(
        nri_runtime, "pod_cache", "--listen", "127.0.0.1:0", "--store", str(tmp_path / "pods.db")
    ):
        pass
    with kit.InventoryStore(tmp_path / "pods.db") as store:
        assert len(kit.Inventory(store=store).snapshot().pods) == 1
