"""RegisterPlugin, without a connection."""

from __future__ import annotations

from typing import Any

import pytest

from nri_sync.api import PluginId, nri_pb2
from nri_sync.codes import StatusCode
from nri_sync.deadline import Deadline
from nri_sync.runtime.older import OlderRelease
from nri_sync.runtime.registration import Registration
from nri_sync.threads import Latch

__all__: list[str] = []

LONG = Deadline(20)
PASSED = Deadline(0)


class Aborted(Exception):
    pass


class Context:
    """The part of a ServicerContext that a registration uses."""

    def __init__(self) -> None:
        self.answered = Latch()
        self.aborted_with: tuple[StatusCode, str] | None = None

    def when_answered(self) -> Latch:
        return self.answered

    def abort(self, code: StatusCode, text: str) -> None:
        self.aborted_with = (code, text)
        raise Aborted


def request(name: str = "raw", idx: str = "10") -> nri_pb2.RegisterPluginRequest:
    return nri_pb2.RegisterPluginRequest(plugin_name=name, plugin_idx=idx, NRI_version="v0.12.0")


def register(registration: Registration, message: Any) -> Context:
    context = Context()
    registration.register(message, context)  # type: ignore[arg-type]
    return context


def test_wait_returns_when_the_answer_has_been_sent() -> None:
    registration = Registration(None, None)
    assert registration.identity == ("", "")
    assert not registration.wait(PASSED)
    context = register(registration, request())
    assert not registration.wait(PASSED)
    context.answered.set()
    assert registration.wait(LONG)
    assert (registration.identity, registration.nri_version) == (PluginId("10", "raw"), "v0.12.0")
    assert registration.refusal == ""


def test_wait_ends_with_the_connection() -> None:
    registration = Registration(None, None)
    registration.cancel()
    assert not registration.wait(LONG)


def test_the_first_request_counts() -> None:
    registration = Registration(None, None)
    register(registration, request())
    with pytest.raises(Aborted):
        register(registration, request("other"))
    assert registration.identity == ("10", "raw")


@pytest.mark.parametrize("bad", [request(name="a,b"), request(idx="1"), request(name="a" * 256)])
def test_a_refusal(bad: nri_pb2.RegisterPluginRequest) -> None:
    registration = Registration(None, None)
    context = Context()
    with pytest.raises(Aborted):
        registration.register(bad, context)  # type: ignore[arg-type]
    assert context.aborted_with == (StatusCode.UNKNOWN, registration.refusal)
    assert registration.refusal.startswith("invalid plugin ")
    context.answered.set()
    assert registration.wait(LONG)


def test_a_launched_plugin_keeps_its_identity() -> None:
    registration = Registration(PluginId("20", "launched"), None)
    register(registration, request(name="a,b"))
    assert (registration.identity, registration.refusal) == (("20", "launched"), "")


def test_an_older_release_does_not_see_the_version() -> None:
    registration = Registration(None, OlderRelease("v0.5.0"))
    register(registration, request())
    assert (registration.identity, registration.nri_version) == (("10", "raw"), "")
