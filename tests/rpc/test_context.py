"""The context of a call, by itself; tests/ttrpc has it in calls."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from nri_sync.codes import StatusCode
from nri_sync.rpc.context import Aborted, RequestContext
from nri_sync.rpc.status import Status

__all__: list[str] = []


def make() -> RequestContext:
    return RequestContext("/a/b", (), 0.0, None, "unix:x", lambda: True)


@pytest.mark.parametrize("code", [3, StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INVALID_ARGUMENT])
def test_abort_takes_codes_of_any_kind(code: Any) -> None:
    context = make()
    with pytest.raises(Aborted, match="bad"):
        context.abort(code, "bad")
    assert (context.code(), context.details()) == (StatusCode.INVALID_ARGUMENT, "bad")
    assert context.code() is StatusCode.INVALID_ARGUMENT
    assert context.status(None) == Status(3, "bad")


@pytest.mark.parametrize("code", [0, StatusCode.OK, grpc.StatusCode.OK])
def test_abort_refuses_success(code: Any) -> None:
    with pytest.raises(ValueError, match="needs an error code"):
        make().abort(code, "fine")


def test_a_context_has_the_methods_of_grpc() -> None:
    wanted = {name for name in dir(grpc.ServicerContext) if not name.startswith("_")}
    assert wanted - set(dir(RequestContext)) == set()
    assert isinstance(make(), grpc.ServicerContext)


def test_no_compression_is_none_at_all() -> None:
    make().set_compression(grpc.Compression.NoCompression)
    with pytest.raises(ValueError, match="cannot compress"):
        make().set_compression(grpc.Compression.Gzip)


def test_cancel_is_passed_on_until_the_call_is_over() -> None:
    cancelled: list[str] = []

    def cancel() -> bool:
        cancelled.append("now")
        return True

    context = RequestContext("/a/b", (), 0.0, None, "unix:x", cancel)
    assert context.cancel()
    context.end()
    assert not context.cancel()
    assert cancelled == ["now"]


def test_the_end_gives_the_callbacks_once_and_drops_the_request() -> None:
    context, called = make(), []
    context.request = "a request"
    assert context.is_active()
    assert context.add_callback(lambda: called.append(1))
    for callback in context.end():
        callback()
    assert context.end() == []
    assert called == [1]
    assert context.request is None
    assert not context.is_active()
    assert not context.add_callback(lambda: called.append(2))


class _EndsMeanwhile(RequestContext):
    """Its call ends while ``add_callback()`` attaches the list of callbacks."""

    def __setattr__(self, name: str, value: object) -> None:
        if value == []:
            assert self.end() == []
        super().__setattr__(name, value)


def test_a_callback_is_refused_if_the_call_ends_meanwhile() -> None:
    context = _EndsMeanwhile("/a/b", (), 0.0, None, "unix:x", lambda: True)
    assert not context.add_callback(lambda: None)
    assert context.end() == []
