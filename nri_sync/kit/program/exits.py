"""The exit codes of a plugin's program, and the log record of the error that ended it."""

from __future__ import annotations

import enum

from nri_sync.errors import (
    CallFailed,
    ConnectionLost,
    ConnectionSpent,
    IdentityError,
    NRIError,
    StartError,
    TurnTaken,
)
from nri_sync.kit.program.definition import Unusable, config_error
from nri_sync.logger import get_logger
from nri_sync.text import indented

__all__ = ["ExitCode", "exit_code", "explain", "report"]

logger = get_logger("nri_sync.kit.program")


class ExitCode(enum.IntEnum):
    """The reason why a program has ended."""

    #: Stopped: by SIGTERM or SIGINT, or because the plugin stopped its stub.
    OK = 0
    #: An unexpected exception, most likely raised by the plugin. The log has the traceback.
    CRASHED = 1
    #: The program cannot use an option, or a variable of the environment.
    USAGE = 2
    #: The configuration cannot be read, does not fit the plugin's type, or was refused by the plugin.
    CONFIG = 3
    #: The program cannot connect to the runtime.
    UNREACHABLE = 4
    #: The runtime has not accepted the plugin: it refused the plugin, or did not answer in time.
    REJECTED = 5
    #: The session was lost, and the program does not reconnect.
    LOST = 6


def explain(error: BaseException) -> str:
    """Return the text of an error, or of the configuration error behind it."""
    return str(config_error(error) or error) or repr(error)


def exit_code(error: Exception) -> ExitCode:
    """Return the exit code of a program that ends with an error."""
    if config_error(error) is not None:
        return ExitCode.CONFIG
    if isinstance(error, (IdentityError, Unusable)):
        return ExitCode.USAGE
    if isinstance(error, (ConnectionLost, ConnectionSpent, TurnTaken)):
        return ExitCode.LOST
    if isinstance(error, StartError):
        if error.phase == "dial":
            return ExitCode.UNREACHABLE
        cause = error.__cause__
        return ExitCode.REJECTED if cause is None or _is_expected(cause) else ExitCode.CRASHED
    return ExitCode.CRASHED


def report(error: Exception, *, traceback: bool) -> ExitCode:
    """Log why the program ends. Expected errors, which name the remedy, have a traceback only on request."""
    surprise = not _is_expected(error)
    text = f"{type(error).__name__}: {error}" if surprise else explain(error)
    logger.critical("%s", indented(text), exc_info=error if surprise or traceback else None)
    return exit_code(error)


def _is_expected(error: BaseException) -> bool:
    """Whether the text names the remedy. A failed call is one of the plugin, which has not caught the error."""
    return isinstance(error, NRIError) and not isinstance(error, CallFailed)
