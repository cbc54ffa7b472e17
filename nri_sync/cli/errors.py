"""How a command says that it cannot go on."""

from __future__ import annotations

import enum

__all__ = ["CommandError", "ExitCode"]


class ExitCode(enum.IntEnum):
    """Why a command has ended. The first seven are those of :class:`nri_sync.kit.ExitCode`."""

    OK = 0
    CRASHED = 1
    USAGE = 2
    CONFIG = 3
    UNREACHABLE = 4
    REJECTED = 5
    LOST = 6
    #: There is no plugin in what was named, more than one, or it cannot be loaded.
    PLUGIN = 7
    #: A file that was to be read (a manifest, a recording) is not there, or is not what it should be.
    INPUT = 8
    #: The command has worked, and found what it looks for: a difference, a conflict, a rejection, a problem.
    FOUND = 9


class CommandError(Exception):
    """One line that names what is wrong and says what to do, and the exit code for it."""

    def __init__(self, message: str, code: ExitCode) -> None:
        super().__init__(message)
        self.code = code
