"""The error that ends a command, and the exit codes."""

from __future__ import annotations

import enum

__all__ = ["CommandError", "ExitCode"]


class ExitCode(enum.IntEnum):
    """The reason why a command has ended. The first seven are those of :class:`nri_sync.kit.ExitCode`."""

    OK = 0
    CRASHED = 1
    USAGE = 2
    CONFIG = 3
    UNREACHABLE = 4
    REJECTED = 5
    LOST = 6
    #: The named file or module has no plugin, or more than one, or the command cannot load it.
    PLUGIN = 7
    #: An input file (a manifest, a recording) is missing, or its content is invalid.
    INPUT = 8
    #: The command has worked and has found a difference, a conflict, a rejection or a problem.
    FOUND = 9


class CommandError(Exception):
    """One line that names the mistake and the remedy, and the exit code for it."""

    def __init__(self, message: str, code: ExitCode) -> None:
        super().__init__(message)
        self.code = code
