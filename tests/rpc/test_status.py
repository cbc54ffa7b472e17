"""The status of each exception, and statuses on the wire."""

from __future__ import annotations

import concurrent.futures
from typing import Any, cast

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from nri_sync.codes import StatusCode
from nri_sync.errors import CallFailed
from nri_sync.rpc import envelope_pb2
from nri_sync.rpc.status import DETAILS_KEY, Status, code_of, from_exception, status_of
from nri_sync.ttrpc.call import CallError

__all__: list[str] = []

Code = StatusCode


@pytest.mark.parametrize(
    ("error", "code", "details"),
    [
        (ValueError("wrong"), Code.UNKNOWN, "ValueError: wrong"),
        (ValueError(), Code.UNKNOWN, "ValueError"),
        (KeyError("k"), Code.UNKNOWN, "KeyError: 'k'"),
        (SystemExit(3), Code.UNKNOWN, "SystemExit: 3"),
        (KeyboardInterrupt(), Code.UNKNOWN, "KeyboardInterrupt"),
        (TimeoutError("slow"), Code.DEADLINE_EXCEEDED, "TimeoutError: slow"),
        (concurrent.futures.TimeoutError(), Code.DEADLINE_EXCEEDED, "TimeoutError"),
        (concurrent.futures.CancelledError(), Code.CANCELLED, "CancelledError"),
        (FileExistsError("a"), Code.ALREADY_EXISTS, "FileExistsError: a"),
        (FileNotFoundError("a"), Code.NOT_FOUND, "FileNotFoundError: a"),
        (PermissionError("a"), Code.PERMISSION_DENIED, "PermissionError: a"),
        (BrokenPipeError("a"), Code.FAILED_PRECONDITION, "BrokenPipeError: a"),
        (EOFError("a"), Code.OUT_OF_RANGE, "EOFError: a"),
        # To an NRI runtime, UNIMPLEMENTED would mean a plugin of an older protocol.
        (NotImplementedError("later"), Code.UNKNOWN, "NotImplementedError: later"),
        (CallFailed("/a/b", Code.NOT_FOUND, "gone"), Code.NOT_FOUND, "gone"),
        (CallFailed("/a/b", Code.UNIMPLEMENTED, "no"), Code.UNKNOWN, "no"),
        (CallError("/a/b", Status(Code.NOT_FOUND, "gone")), Code.NOT_FOUND, "gone"),
        (CallError("/a/b", Status(Code.UNIMPLEMENTED, "no")), Code.UNKNOWN, "no"),
        (CallError("/a/b", Status(Code.OK, "?")), Code.UNKNOWN, "?"),
        # A handler may make the error of anything.
        (CallFailed("/a/b", cast(Any, "x"), "gone"), Code.UNKNOWN, "gone"),
        (CallFailed("/a/b", cast(Any, 5), "gone"), Code.NOT_FOUND, "gone"),
        (
            CallFailed("/a/b", Code.NOT_FOUND, cast(Any, 5)),
            Code.NOT_FOUND,
            "CallFailed: /a/b failed: NOT_FOUND: 5",
        ),
        (grpc.RpcError("plain"), Code.UNKNOWN, "RpcError: plain"),
    ],
    ids=repr,
)
def test_from_exception(error: BaseException, code: StatusCode, details: str) -> None:
    assert from_exception(error) == Status(code, details)


class Odd(grpc.RpcError):
    """Looks like a call that failed, but answers with anything."""

    def __init__(self, code: Any, details: Any) -> None:
        super().__init__()
        self._code, self._details = code, details

    def code(self) -> Any:
        return self._code()

    def details(self) -> Any:
        return self._details

    def __str__(self) -> str:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("code", "details"), [(lambda: None, None), (lambda: 5, 7), (lambda: 1 / 0, "x"), (list, [])]
)
def test_odd_exceptions_do_no_harm(code: Any, details: Any) -> None:
    assert from_exception(Odd(code, details)) == Status(Code.UNKNOWN, "Odd")


@pytest.mark.parametrize("code", Code)
def test_codes_of_any_kind(code: StatusCode) -> None:
    assert code_of(int(code)) is code_of(code) is code_of(grpc.StatusCode[code.name]) is code
    assert Status(code, "x").code is code


@pytest.mark.parametrize("other", ["NOT_FOUND", None, 5.0, (5, "not found"), grpc.Compression])
def test_invalid_codes(other: Any) -> None:
    with pytest.raises(TypeError, match="is no StatusCode"):
        code_of(other)


def test_the_status_of_a_failed_call() -> None:
    rich = Status(Code.NOT_FOUND, "gone", b"\x08\x05")
    failures = (rich.error("/a/b"), CallError("/a/b", rich))
    for failed in failures:
        assert status_of(failed) == rich
    assert failures[0].rich == rich.rich
    assert str(failures[0]) == "/a/b failed: NOT_FOUND: gone"
    assert status_of(ValueError("x")) is None


@pytest.mark.parametrize("number", [-1, 17, 99, 2**31 - 1])
def test_numbers_without_a_code(number: int) -> None:
    assert code_of(number) is Code.UNKNOWN
    status = Status(number, "odd")
    assert Status.from_message(status.to_message()) == status


def test_details_are_kept() -> None:
    message = envelope_pb2.Status(code=5, message="gone")
    message.details.add().Pack(StringValue(value="more"))
    status = Status.from_message(message)
    assert (status.code, status.details) == (Code.NOT_FOUND, "gone")
    assert status.to_message() == message
    assert status.trailing_metadata == ((DETAILS_KEY, message.SerializeToString()),)


def test_without_details_there_is_no_metadata() -> None:
    assert Status.from_message(envelope_pb2.Status(code=5)).trailing_metadata == ()


def test_text_that_utf8_cannot_hold_is_replaced() -> None:
    assert Status(2, "a\udc80b").to_message().message == "a?b"
