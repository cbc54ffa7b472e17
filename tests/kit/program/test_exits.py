"""The exit codes of a plugin's program."""

from __future__ import annotations

import logging

import pytest

from nri_sync import StatusCode, errors
from nri_sync.kit.program.definition import Unusable
from nri_sync.kit.program.exits import ExitCode, exit_code, explain, report


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


WRONG = errors.ConfigError("plugin.yaml", ("low: missing",))
FAILED_CALL = errors.CallFailed("/Runtime/UpdateContainers", StatusCode.UNKNOWN, "no")
CODES: list[tuple[Exception, ExitCode]] = [
    (WRONG, ExitCode.CONFIG),
    (caused(errors.StartError("failed", phase="configure"), WRONG), ExitCode.CONFIG),
    (errors.IdentityError("no name"), ExitCode.USAGE),
    (Unusable("--health-file /x"), ExitCode.USAGE),
    (errors.ConnectionLost("gone"), ExitCode.LOST),
    (errors.ConnectionSpent("spent", phase="dial"), ExitCode.LOST),
    (errors.StartError("no socket", phase="dial"), ExitCode.UNREACHABLE),
    (errors.StartError("refused", phase="register"), ExitCode.REJECTED),
    (
        caused(errors.StartError("failed", phase="configure"), errors.ConnectionLost("gone")),
        ExitCode.REJECTED,
    ),
    (caused(errors.StartError("failed", phase="configure"), KeyError("x")), ExitCode.CRASHED),
    (caused(errors.StartError("failed", phase="configure"), FAILED_CALL), ExitCode.CRASHED),
    (KeyError("x"), ExitCode.CRASHED),
    (FAILED_CALL, ExitCode.CRASHED),
]


@pytest.mark.parametrize(("error", "code"), CODES)
def test_each_error_has_a_code(error: Exception, code: ExitCode) -> None:
    assert exit_code(error) is code


def test_a_configuration_error_explains_the_failed_start() -> None:
    assert explain(caused(errors.StartError("failed", phase="configure"), WRONG)) == str(WRONG)
    assert explain(errors.ConnectionLost("gone")) == "gone"
    assert explain(KeyError()) == "KeyError()"


@pytest.mark.parametrize(
    ("error", "traceback", "has_traceback"),
    [
        (WRONG, False, False),
        (WRONG, True, True),
        (KeyError("x"), False, True),
        (FAILED_CALL, False, True),
    ],
)
def test_only_unexpected_errors_have_a_traceback_unless_it_is_requested(
    error: Exception, traceback: bool, has_traceback: bool, caplog: pytest.LogCaptureFixture
) -> None:
    assert report(error, traceback=traceback) is exit_code(error)
    (record,) = caplog.records
    assert record.levelno == logging.CRITICAL
    assert bool(record.exc_info) == has_traceback
