"""Calls of a stub to the runtime; the tests of Stub.update_containers() have the rest."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from nri_sync.api import nri_pb2
from nri_sync.codes import StatusCode
from nri_sync.errors import CallFailed
from nri_sync.plugin.calls import call_runtime
from nri_sync.plugin.counters import Tally
from nri_sync.plugin.interceptors import Interceptors
from tests.net.rig import LONG

__all__: list[str] = []

REQUEST = nri_pb2.UpdateContainersRequest()


class Client:
    """In place of a ClientEnd: its calls are done when they are cancelled."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.cancelled = threading.Event()

    def start(self, path: str, payload: bytes, **options: Any) -> Any:
        self.started.set()
        return SimpleNamespace(method=path)

    def result(self, call: Any) -> bytes:
        assert self.cancelled.wait(LONG)
        return b""

    def cancel(self, call: Any) -> bool:
        self.cancelled.set()
        return True


def call(client: Any) -> Any:
    plugin: Any = SimpleNamespace(name="10-x", interceptors=Interceptors([]), tally=Tally())
    ignored: Any = SimpleNamespace(check=lambda rpc, request: None)
    return call_runtime(plugin, client, ignored, "UpdateContainers", REQUEST, LONG)


def test_an_interrupt_of_the_main_thread_cancels_the_call() -> None:
    client = Client()
    interrupter = threading.Thread(target=_interrupt_when, args=(client.started,))
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        call(client)
    assert client.cancelled.wait(LONG)
    interrupter.join(LONG)


def _interrupt_when(started: threading.Event) -> None:
    import _thread

    assert started.wait(LONG)
    _thread.interrupt_main()


def test_without_a_connection_it_fails_as_a_call_does() -> None:
    class Refusing(Client):
        def result(self, call: Any) -> bytes:
            raise CallFailed(call.method, StatusCode.UNAVAILABLE, "gone")

    with pytest.raises(CallFailed, match="gone"):
        call(Refusing())
