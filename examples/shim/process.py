"""The process of a container, and its standard input and output."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable
from urllib.parse import urlsplit

from google.protobuf.timestamp_pb2 import Timestamp

from examples.shim import task_pb2
from examples.shim.bundle import kill_session

__all__ = ["Exit", "Process", "Stdio", "now"]

logger = logging.getLogger("shim")

INIT = Path(__file__).with_name("init.py")


def now() -> Timestamp:
    """The time, for containerd."""
    stamp = Timestamp()
    stamp.FromNanoseconds(time.time_ns())
    return stamp


@dataclass(frozen=True)
class Exit:
    """The end of a process; by a signal the status is 128 and its number, as shells have it."""

    status: int
    at: Timestamp


class Stdio:
    """Opens the FIFOs that containerd's client has made, or ``file:///path``. An empty name is /dev/null."""

    def __init__(self, stdin: str, stdout: str, stderr: str) -> None:
        self.files: list[int] = []
        #: Keeps the FIFO of stdin open for writing: the process finds no end of input before the client is there.
        self._writer: int | None = None
        try:
            if stdin:
                self._writer = os.open(_path(stdin), os.O_RDWR)
            self.files.append(os.open(_path(stdin), os.O_RDONLY))
            for name in (stdout, stderr):
                flags = os.O_CREAT | os.O_APPEND if urlsplit(name).scheme == "file" else 0
                # For reading, too: a FIFO opens without waiting for a reader, and outlives one.
                self.files.append(os.open(_path(name), os.O_RDWR | flags, 0o600))
        except BaseException:
            self.close_files()
            self.close_stdin()
            raise

    def close_files(self) -> None:
        """The process has them."""
        while self.files:
            os.close(self.files.pop())

    def close_stdin(self) -> None:
        """The client will send no more. May be repeated."""
        writer, self._writer = self._writer, None
        if writer is not None:
            os.close(writer)


def _path(name: str) -> str:
    parts = urlsplit(name)
    if parts.scheme not in ("", "fifo", "file"):
        raise ValueError(f"this shim has no {parts.scheme}:// logging: use a file or FIFO")
    return parts.path or os.devnull


class Process:
    """Created in the constructor, with a PID; runs its program after :meth:`start`.

    One thread accompanies the process to its end. It calls ``on_create``, ``on_start`` and ``on_exit``, in this
    order. A process that never runs its program has no ``on_start`` and no ``on_exit``.
    """

    def __init__(
        self,
        program: dict[str, Any],
        stdio: Stdio,
        *,
        on_create: Callable[[int], None],
        on_start: Callable[[int], None],
        on_exit: Callable[[int, Exit], None],
    ) -> None:
        self.stdio = stdio
        self._line = json.dumps(program).encode() + b"\n"
        self._on_create, self._on_start, self._on_exit = on_create, on_start, on_exit
        self._shim, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-I", "-S", str(INIT), str(theirs.fileno())]
            stdin, stdout, stderr = stdio.files
            self._process = subprocess.Popen(
                command, stdin=stdin, stdout=stdout, stderr=stderr, cwd="/", env={},
                pass_fds=[theirs.fileno()], start_new_session=True,
            )  # fmt: skip
        stdio.close_files()
        self.pid = self._process.pid
        self._first_start = threading.Lock()  # acquired once
        # Held while the process is reaped, and while a signal is sent: the PID is that of this process.
        self._reaping = threading.Lock()
        self._started: Future[None] = Future()
        self._exited: Future[Exit] = Future()
        threading.Thread(target=self._accompany, name=f"process-{self.pid}", daemon=True).start()

    @property
    def status(self) -> task_pb2.Status:
        if self._exited.done():
            return task_pb2.STOPPED
        return task_pb2.RUNNING if self._started.done() else task_pb2.CREATED

    @property
    def exit(self) -> Exit | None:
        """None while it has not ended."""
        return self._exited.result() if self._exited.done() else None

    def start(self) -> None:
        """Returns when the program runs. Raises RuntimeError where it cannot, and for a second start."""
        if not self._first_start.acquire(blocking=False):
            raise RuntimeError(f"process {self.pid} has been started before")
        try:
            self._shim.sendall(self._line)
        except OSError:
            pass  # it has ended, and the answer below says so
        self._started.result()

    def wait(self) -> Exit:
        """Returns when it has ended, after ``on_exit``."""
        return self._exited.result()

    def kill(self, number: int, *, all: bool = False) -> None:
        """Send a signal. ``all`` means its process group. Raises ProcessLookupError when it has ended."""
        with self._reaping:
            if self._process.returncode is not None:
                raise ProcessLookupError(f"process {self.pid} has ended")
            (os.killpg if all else os.kill)(self.pid, number)

    def _accompany(self) -> None:
        self._on_create(self.pid)
        answer = _read_all(self._shim)
        self._shim.close()
        runs = answer == b"+"
        if runs:
            self._on_start(self.pid)
            self._started.set_result(None)
        # Not reaped yet, so that its PID still names its session.
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        try:
            kill_session(self.pid)
        except TimeoutError as error:
            logger.error("%s", error)
        with self._reaping:
            code = self._process.wait()
        end = Exit(code if code >= 0 else 128 - code, now())
        self.stdio.close_stdin()
        if runs:
            self._on_exit(self.pid, end)
        self._exited.set_result(end)
        if not runs:
            reason = answer.removeprefix(b"+").decode(errors="replace")
            self._started.set_exception(RuntimeError(reason or f"process {self.pid} was killed"))


def _read_all(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(4096), b""))
