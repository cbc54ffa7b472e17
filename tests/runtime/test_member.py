"""The errors for requests that a plugin failed: answered with an error, or not answered."""

from __future__ import annotations

import pytest

from nri_sync.codes import StatusCode
from nri_sync.errors import CallFailed, ConnectionLost, NoAnswer, RemoteProtocolError
from nri_sync.runtime.member import failure, no_answer_cause

__all__: list[str] = []


def _call_error(cause: Exception | None) -> CallFailed:
    error = CallFailed("/Plugin/StopContainer", StatusCode.UNKNOWN, "out of cpus")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "cause", [TimeoutError("late"), ConnectionLost("gone"), RemoteProtocolError("odd")]
)
def test_no_answer(cause: Exception) -> None:
    error = _call_error(cause)
    assert no_answer_cause(error) is cause
    failed = failure("10-a", "StopContainer", error)
    assert isinstance(failed, NoAnswer)
    assert str(failed) == f"plugin 10-a failed to handle StopContainer request: {cause}"
    assert failed.__cause__ is cause


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (_call_error(None), "out of cpus"),
        (_call_error(KeyError("x")), "out of cpus"),
        (ValueError("boom"), "boom"),
        (ValueError(), "ValueError"),
        (
            TimeoutError("raised by a handler of this process"),
            "raised by a handler of this process",
        ),
    ],
)
def test_an_error_is_the_answer(error: Exception, reason: str) -> None:
    assert no_answer_cause(error) is None
    failed = failure("10-a", "StopContainer", error)
    assert not isinstance(failed, NoAnswer)
    assert str(failed) == f"plugin 10-a: StopContainer failed: {reason}"
    assert (failed.plugin, failed.event, failed.reason) == ("10-a", "StopContainer", reason)
    assert failed.__cause__ is error
