"""The first process of a container: waits for the start, and becomes the container's program.

    python -I -S init.py FD

FD is a socket to the shim. The shim sends one line of JSON when containerd starts the task. This process answers
``+`` and becomes the program, which closes the socket. When it cannot, it sends the reason, too. An end without an
answer means that this process was killed while it waited.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from typing import Any

__all__ = ["main"]


def main(descriptor: int) -> int:
    """Returns only when the program has not been started."""
    # SIGINT ends this process, too, without a traceback in the container's output.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    shim = socket.socket(fileno=descriptor)
    shim.set_inheritable(False)
    line = shim.makefile("rb").readline()
    if not line.endswith(b"\n"):
        return 1  # the shim is gone
    try:
        become(json.loads(line), shim)
    except (OSError, ValueError) as error:
        shim.sendall(str(error).encode())
    return 127


def become(program: dict[str, Any], shim: socket.socket) -> None:
    """Execute the program in its root file system. Returns by an exception only."""
    if program["root"] != "/":
        os.chroot(program["root"])
    os.chdir(program["cwd"])
    if os.geteuid() == 0:
        os.setgroups(program["groups"])
        os.setgid(program["gid"])
        os.setuid(program["uid"])
    # Python ignores these two, and a program expects the default.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    shim.sendall(b"+")
    try:
        os.execvpe(program["args"][0], program["args"], program["env"])
    except OSError as error:
        # Of both, as the error has the last path that was tried.
        raise OSError(f"cannot execute {program['args'][0]!r}: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
