"""The conversion of events' outcomes into reports."""

from __future__ import annotations

import pytest

from nri_sync import api
from nri_sync.errors import (
    ConflictError,
    NoAnswer,
    NRIError,
    RequestFailed,
    RequestTimeout,
    RuntimeStopped,
    ValidationRejected,
)
from nri_sync.testing import make_container, make_pod
from nri_sync.testing.result import Answer, Result
from nri_sync.testing.simulation.outcomes import calls_of, failure_of, synchronize_call
from nri_sync.testing.simulation.plugins import Handled
from nri_sync.testing.simulation.report import Call, FailureKind

__all__: list[str] = []


@pytest.mark.parametrize(
    ("error", "kind", "plugin"),
    [
        (ConflictError("both want it ", plugin="20-b"), FailureKind.CONFLICT, "20-b"),
        (ValidationRejected("30-v", "never"), FailureKind.REJECTED, "30-v"),
        (RequestFailed("failed", plugin="10-a", event="E", reason="r"), FailureKind.ERROR, "10-a"),
        (NoAnswer("silent", plugin="10-a", event="E", reason="r"), FailureKind.NO_ANSWER, "10-a"),
        (RequestTimeout("late"), FailureKind.NO_ANSWER, ""),
        (RuntimeStopped("gone"), FailureKind.ERROR, ""),
    ],
)
def test_failures(error: NRIError, kind: FailureKind, plugin: str) -> None:
    found = failure_of(error, [])
    assert found is not None
    assert (found.kind, found.plugin, found.message) == (kind, plugin, str(error).strip())


def test_no_failure() -> None:
    assert failure_of(None, []) is None


def test_a_failure_has_the_traceback_of_its_handler() -> None:
    calls = [
        Call("10-a", "CreateContainer", 0.1, 0.1, traceback="other"),
        Call("20-b", "CreateContainer", 0.1, 0.1, traceback="this"),
    ]
    error = RequestFailed("failed", plugin="20-b", event="CreateContainer", reason="r")
    found = failure_of(error, calls)
    assert found is not None
    assert found.traceback == "this"


def test_answers_are_matched_with_calls_of_handlers() -> None:
    adjustment = api.Adjustment().add_env("A", "1").message
    answers = [
        Answer("10-a", "CreateContainer", 1.0, adjustment=adjustment, updates=2, evictions=1),
        Answer("20-b", "CreateContainer", 2.0, error=RuntimeError("bad")),
        Answer("10-a", "PostCreateContainer", 3.0),
    ]
    handled = {
        "10-a": [Handled("CreateContainer", 0.1, None), Handled("PostCreateContainer", 0.3, None)],
        # This plugin has timed out, and its handler still runs.
        "20-b": [],
    }  # fmt: skip
    found = calls_of(Result("CreateContainer", make_pod(), None, answers=answers), handled)
    assert [(call.plugin, call.handler_seconds, call.seconds, call.error) for call in found] == [
        ("10-a", 0.1, 1.0, ""),
        ("20-b", None, 2.0, "bad"),
        ("10-a", 0.3, 3.0, ""),
    ]
    assert (found[0].adjustment, found[0].updates, found[0].evictions) == (adjustment, 2, 1)


def test_a_handler_that_was_too_slow_for_an_earlier_event() -> None:
    pod = make_pod()
    container = make_container(pod)
    answers = [Answer("10-a", "CreateContainer", 1.0)]
    late = Handled("CreateContainer", 9.0, None, about="another")
    result = Result("CreateContainer", pod, container, answers=answers)
    [call] = calls_of(result, {"10-a": [late]})
    assert call.handler_seconds is None
    present = Handled("CreateContainer", 0.1, None, about=container.id)
    [call] = calls_of(result, {"10-a": [late, present]})
    assert call.handler_seconds == 0.1


def test_synchronize() -> None:
    response = api.SynchronizeResponse(update=[api.Update("c").message])
    call = synchronize_call("10-a", Handled("Synchronize", 0.1, response))
    assert (call.plugin, call.event, call.updates) == ("10-a", "Synchronize", 1)
