"""Plugins that are installed as files: finds them, starts their processes, and ends the processes.

The search for plugins and the environment of a process are those of the reference, with two differences: the
output of a plugin goes to the log and is not discarded, and every process is reaped.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import resource
import select
import signal
import socket
import stat
import threading
from typing import NamedTuple

from nri_sync import api
from nri_sync.api import PluginId
from nri_sync.deadline import Deadline
from nri_sync.errors import StartError
from nri_sync.files import check_writers, open_regular, read_regular
from nri_sync.flood import Allowance
from nri_sync.logger import get_logger
from nri_sync.text import Lines, printable
from nri_sync.threads import Latch, spawn
from nri_sync.wire.ttrpc import MESSAGE_MAX

__all__ = [
    "LINES_AT_ONCE",
    "LINES_A_SECOND",
    "Installed",
    "OutputLog",
    "Process",
    "discover",
    "launch",
]

# Each process has an allowance for its output.
logger = get_logger("nri_sync.runtime.plugin", bounded=False)

#: The descriptor of the connection in the process of a plugin.
SOCKET_FD = 3
# The first bytes of a WebAssembly module.
_WASM = b"\0asm\x01\0\0\0"
_READ_SIZE = 64 * 1024
# Longer lines are logged in pieces of this length.
_LINE_MAX = 8 * 1024
# A plugin that prints without end fills no log: so many lines at once, and so many a second from then on.
LINES_AT_ONCE = 2000
LINES_A_SECOND = 100


class Installed(NamedTuple):
    """A plugin that can be launched."""

    identity: PluginId
    path: str
    #: The configuration for the Configure request.
    config: str
    #: The path of the configuration file; empty without a file.
    config_path: str = ""

    @property
    def name(self) -> str:
        return f"{self.identity.idx}-{self.identity.name}"


def discover(plugin_path: str, config_path: str) -> list[Installed]:
    """The plugins in a directory, in the order of their file names.

    A plugin is a file named ``NN-name`` with any execute permission bit. Its configuration is the first of
    ``NN-name.conf`` and ``name.conf`` in ``config_path``. A directory that does not exist has no plugins.

    Raises:
        StartError: a directory or configuration cannot be read, or an executable file has another name.
    """
    try:
        with os.scandir(plugin_path) as entries:
            found = sorted(entries, key=lambda entry: os.fsencode(entry.name))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _failed(f"cannot read the plugin directory {plugin_path}: {error}") from error
    installed = []
    for entry in found:
        try:
            mode = entry.stat(follow_symlinks=False).st_mode
        except FileNotFoundError:
            continue  # removed since the scan
        # A symbolic link always counts as executable: its own mode has all bits.
        if stat.S_ISDIR(mode) or not mode & 0o111:
            continue
        try:
            identity = api.parse_file_name(entry.name)
        except ValueError as error:
            raise _failed(f"cannot launch {entry.path}: {error}") from error
        installed.append(Installed(identity, entry.path, *_config(config_path, identity)))
    return installed


def _config(directory: str, identity: PluginId) -> tuple[str, str]:
    """The configuration of a plugin, and the path of its file; two empty strings without a file."""
    for name in (f"{identity.idx}-{identity.name}.conf", f"{identity.name}.conf"):
        path = os.path.join(directory, name)
        try:
            return read_regular(path, MESSAGE_MAX).decode(), path
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
                continue  # the plugin's name leaves no room for the suffix: there is no such file
            raise _failed(
                f"cannot read the configuration {path} of plugin"
                f" {identity.idx}-{identity.name}: {error}"
            ) from error
    return "", ""


def _failed(text: str) -> StartError:
    return StartError(text, phase="discover")


def launch(plugin: Installed, *, grace: float) -> tuple[Process, socket.socket]:
    """Start the process of a plugin; returns the process, and the runtime's end of the connection to it.

    ``grace`` is the number of seconds for :meth:`Process.end`.

    Raises:
        PermissionError: other users can change the file, its configuration, or a directory above one of them.
        OSError: the file cannot be executed, or is a WebAssembly module, which this runtime does not support.
    """
    for path in filter(None, (plugin.path, plugin.config_path)):
        check_writers(path)
    _refuse_wasm(plugin.path)
    with contextlib.ExitStack() as cleanup:
        ours, theirs = socket.socketpair()
        cleanup.callback(ours.close)
        with theirs:
            read_end, write_end = os.pipe()
            cleanup.callback(os.close, read_end)
            try:
                pid = _spawn(plugin, theirs.fileno(), write_end)
            finally:
                os.close(write_end)
        process = Process(plugin.name, pid, read_end, grace)
        cleanup.pop_all()
    return process, ours


def _refuse_wasm(path: str) -> None:
    try:
        with open(open_regular(path), "rb") as file:
            start = file.read(len(_WASM))
    except PermissionError:
        return  # an unreadable file may still be executable
    if start == _WASM:
        raise OSError(errno.ENOEXEC, "WebAssembly plugins are not supported", path)


def _spawn(plugin: Installed, connection: int, output: int) -> int:
    environment = {
        api.ENV_PLUGIN_NAME: plugin.identity.name,
        api.ENV_PLUGIN_IDX: plugin.identity.idx,
        api.ENV_PLUGIN_SOCKET: str(SOCKET_FD),
    }
    with contextlib.ExitStack() as cleanup:
        # Move both descriptors above the numbers that the child uses, so that no dup2 overwrites one of them.
        above = [_duplicate_above(fd, cleanup) for fd in (output, connection)]
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, above[0], 1),
            (os.POSIX_SPAWN_DUP2, above[0], 2),
            (os.POSIX_SPAWN_DUP2, above[1], SOCKET_FD),
            *_closing(),
        ]
        # The plugin gets the default signal mask and actions. Otherwise signals that Python or the application
        # ignores, for example SIGTERM, would be ignored in the plugin, too.
        defaults = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
        return os.posix_spawn(
            plugin.path, [plugin.path], environment,
            file_actions=actions, setsigmask=[], setsigdef=defaults,
        )  # fmt: skip


def _closing() -> list[tuple[int, int]]:
    """The actions that close the inheritable descriptors of the application in the child."""
    if hasattr(os, "POSIX_SPAWN_CLOSEFROM"):  # Python 3.13, glibc 2.34
        return [(os.POSIX_SPAWN_CLOSEFROM, SOCKET_FD + 1)]
    found = _inheritable()
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if found and found[-1] >= limit != resource.RLIM_INFINITY:
        raise OSError(
            errno.EBADF,
            f"the inheritable descriptor {found[-1]} is above the limit of {limit} open files, and cannot be"
            " closed in the plugin; call os.set_inheritable(fd, False)",
        )
    return [(os.POSIX_SPAWN_CLOSE, fd) for fd in found]


def _inheritable() -> list[int]:
    """The inheritable descriptors of the application above SOCKET_FD, which the child must not get.

    They can be the listening socket of a server, or an open file of a root process.
    """
    with os.scandir("/proc/self/fd") as entries:
        numbers = sorted(int(entry.name) for entry in entries)
    found = []
    for number in numbers:
        # Skips descriptors that have been closed since the scan, for example that of the scan itself.
        with contextlib.suppress(OSError):
            if number > SOCKET_FD and os.get_inheritable(number):
                found.append(number)
    return found


def _duplicate_above(fd: int, cleanup: contextlib.ExitStack) -> int:
    duplicate: int = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, SOCKET_FD + 1)
    cleanup.callback(os.close, duplicate)
    return duplicate


class Process:
    """The process of a plugin. Thread-safe. One thread logs its output, and reaps it after its end."""

    def __init__(self, name: str, pid: int, output: int, grace: float) -> None:
        """Take ownership of the descriptor ``output``, and watch the process.

        Raises:
            RuntimeError, OSError: the system has no more threads or descriptors. The process has been killed.
        """
        self.name = name
        self.pid = pid
        self._grace = grace
        self._output = output
        #: Set when the process has been reaped.
        self.ended = Latch()
        self._ending = Latch()
        # Guards _pidfd. Signals use _pidfd, because the kernel may reuse the pid for another process.
        self._lock = threading.Lock()
        self._pidfd = -1
        try:
            self._pidfd = os.pidfd_open(pid)
            spawn(f"nri-plugin-{name}-output", self._watch)
        except BaseException:
            # An application that ignores SIGCHLD has no process to reap.
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            if self._pidfd >= 0:
                os.close(self._pidfd)
            raise

    def end(self) -> None:
        """End the process: wait, then send SIGTERM, then SIGKILL, each after the grace. Blocks until it is reaped.

        Call it after the end of the connection, which makes most plugins exit. Idempotent.
        """
        self._ending.set()
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.ended.wait(Deadline(self._grace)):
                return
            logger.warning(
                "%s: process %d has not ended within %g s; sending %s",
                self.name, self.pid, self._grace, number.name,
            )  # fmt: skip
            with self._lock, contextlib.suppress(ProcessLookupError):
                if self._pidfd >= 0:
                    signal.pidfd_send_signal(self._pidfd, number)
        self.ended.wait()

    def _watch(self) -> None:
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        poller.register(self._output, select.POLLIN)
        lines = OutputLog(self.name)
        try:
            while True:
                ready = [fd for fd, _ in poller.poll()]
                # Read before the end: all that the plugin has printed is in the pipe now. Children of the plugin
                # may keep the pipe open; this thread does not wait for them.
                if self._output in ready and not lines.read(self._output):
                    poller.unregister(self._output)
                elif self._pidfd in ready and self._output not in ready:
                    break
                elif self._pidfd in ready:
                    lines.drain(self._output)
                    break
        except Exception:
            logger.exception("%s: stopped reading its output", self.name)
        finally:
            lines.flush()
            self._reap()

    def _reap(self) -> None:
        try:
            _, status = os.waitpid(self.pid, 0)
            self._log_end(status)
        except ChildProcessError:
            logger.warning("%s: process %d was reaped by other code", self.name, self.pid)
        finally:
            os.close(self._output)
            with self._lock:
                os.close(self._pidfd)
                self._pidfd = -1
            self.ended.set()

    def _log_end(self, status: int) -> None:
        code = os.waitstatus_to_exitcode(status)
        how = f"exited with status {code}" if code >= 0 else f"was ended by signal {-code}"
        expected = code == 0 or self._ending.is_set()
        level = logging.INFO if expected else logging.WARNING
        logger.log(level, "%s: process %d %s", self.name, self.pid, how)


class OutputLog:
    """Logs the output of a process, line by line. Counts the lines over the limit, and logs their number."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._rest = b""
        self._allowance = Allowance(LINES_AT_ONCE, LINES_A_SECOND)

    def read(self, fd: int) -> bool:
        """Read once; returns False at the end of the output."""
        data = os.read(fd, _READ_SIZE)
        *lines, self._rest = (self._rest + data).split(b"\n")
        whole = max(len(self._rest) - 1, 0) // _LINE_MAX * _LINE_MAX
        if whole:
            lines.append(self._rest[:whole])
            self._rest = self._rest[whole:]
        for line in lines:
            for start in range(0, max(len(line), 1), _LINE_MAX):
                self.log(line[start : start + _LINE_MAX])
        return bool(data)

    def drain(self, fd: int) -> None:
        """Read the data that is in the pipe, at most one buffer, without blocking."""
        os.set_blocking(fd, False)
        with contextlib.suppress(BlockingIOError):
            self.read(fd)

    def flush(self) -> None:
        if self._rest:
            self.log(self._rest)
            self._rest = b""
        self._log_left_out()

    def log(self, line: bytes) -> None:
        """Log a line, or count it when there are too many."""
        if not self._allowance.take():
            return
        self._log_left_out()
        text = line.decode("utf-8", "backslashreplace").rstrip("\r")
        # Only a line with many escaped characters is shortened.
        logger.info("%s: %s", self._name, Lines(printable(text, _LINE_MAX)))

    def _log_left_out(self) -> None:
        count = self._allowance.take_left_out()
        if count:
            logger.warning(
                "%s: %d lines of its output are left out: more than %d a second",
                self._name, count, LINES_A_SECOND,
            )  # fmt: skip
