"""A service with a plugin in it, while the runtime comes and goes."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from examples.embedded_service.plugin import LimitService
from nri_sync import api
from nri_sync.testing import FakeRuntime, make_container, make_pod
from tests.examples.attached import run_program, wait_until_asked

__all__: list[str] = []


@pytest.fixture
def service(nri_runtime: FakeRuntime) -> Iterator[LimitService]:
    service = LimitService("127.0.0.1", 0, retry=0.01, socket_path=nri_runtime.socket_path)
    service.serve()
    yield service
    service.close()


def ask(service: LimitService, method: str, path: str = "/", body: str = "") -> Any:
    url = f"http://{service.address}{path}"
    request = urllib.request.Request(url, body.encode(), method=method)
    try:
        with urllib.request.urlopen(request) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return json.load(error)


def created(runtime: FakeRuntime, namespace: str = "shop") -> api.Container:
    pod = make_pod(namespace=namespace)
    runtime.run_pod(pod)
    container = make_container(pod)
    runtime.create_container(pod, container)
    return container


def limit(runtime: FakeRuntime, container: api.Container) -> int | None:
    return api.optional.get(runtime.container(container).linux.resources.memory, "limit")


def test_limits(nri_runtime: FakeRuntime, service: LimitService) -> None:
    wait_until_asked(nri_runtime)
    before, other = created(nri_runtime), created(nri_runtime, "other")
    assert ask(service, "PUT", "/shop", "512Mi") == {"applied": True, "failed": []}
    after = created(nri_runtime)
    assert limit(nri_runtime, before) == limit(nri_runtime, after) == 512 << 20
    assert limit(nri_runtime, other) is None
    nri_runtime.failing.add(after.id)
    assert ask(service, "PUT", "/shop", "1Gi") == {"applied": True, "failed": [after.id]}
    assert "error" in ask(service, "PUT", "/shop", "much")
    assert "error" in ask(service, "POST", "/stop")
    assert ask(service, "GET") == {
        "connected": True, "limits": {"shop": 1 << 30}, "containers": 3,
    }  # fmt: skip


def test_the_runtime_is_restarted(nri_runtime: FakeRuntime, service: LimitService) -> None:
    wait_until_asked(nri_runtime)
    container = created(nri_runtime)
    for number in range(1, 4):
        nri_runtime.stop()
        nri_runtime.wait_for(lambda: not service.stub.started)
        answer = ask(service, "PUT", "/shop", f"{number}Gi")
        assert answer["applied"] is False
        nri_runtime.start()
        wait_until_asked(nri_runtime)
        # Synchronize listed it.
        assert limit(nri_runtime, container) == number << 30
    assert ask(service, "PUT", "/shop", "1Gi")["applied"]


def test_pauses(nri_runtime: FakeRuntime, service: LimitService) -> None:
    wait_until_asked(nri_runtime)
    ask(service, "PUT", "/shop", "1Gi")
    assert ask(service, "POST", "/pause")["connected"] is False
    nri_runtime.wait_for(lambda: not nri_runtime.plugins)
    container = created(nri_runtime)
    assert limit(nri_runtime, container) is None
    nri_runtime.restart()  # the plugin does not reconnect
    assert not service.stub.started
    ask(service, "POST", "/resume")
    wait_until_asked(nri_runtime)
    assert limit(nri_runtime, container) == 1 << 30


def test_everything_at_once(nri_runtime: FakeRuntime, service: LimitService) -> None:
    wait_until_asked(nri_runtime)
    container = created(nri_runtime)
    failures: list[Any] = []

    def often(*request: str) -> None:
        for _ in range(15):
            answer = ask(service, *request)
            if "error" in answer:
                failures.append(answer)

    requests = [("PUT", "/shop", "1Gi"), ("PUT", "/shop", "1Gi"), ("POST", "/pause"),
                ("POST", "/resume"), ("GET",)]  # fmt: skip
    threads = [threading.Thread(target=often, args=request) for request in requests]
    for thread in threads:
        thread.start()
    for _ in range(5):
        nri_runtime.restart()
    for thread in threads:
        thread.join()
    assert failures == []
    ask(service, "POST", "/resume")
    wait_until_asked(nri_runtime)
    assert limit(nri_runtime, container) == 1 << 30


def test_close_ends_a_service_that_tries_to_connect(nri_runtime: FakeRuntime) -> None:
    nri_runtime.stop()
    service = LimitService("127.0.0.1", 0, retry=60, socket_path=nri_runtime.socket_path)
    service.serve()
    assert ask(service, "GET")["connected"] is False
    service.close()


def test_the_program(nri_runtime: FakeRuntime) -> None:
    with run_program(nri_runtime, "embedded_service", "--listen", "127.0.0.1:0"):
        nri_runtime.restart()
        wait_until_asked(nri_runtime)
        assert nri_runtime.plugins == ("50-limits",)
