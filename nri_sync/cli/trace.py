"""``nri-sync trace``: shows the messages between a runtime and its plugins."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Callable, TextIO

from nri_sync import api
from nri_sync.cli.console import Console, Text, add_output_options, console, print_each
from nri_sync.cli.errors import CommandError, ExitCode
from nri_sync.deadline import Deadline
from nri_sync.kit.logs.dumps import as_text, selected_events
from nri_sync.kit.logs.masking import SECRETS, Mask
from nri_sync.net.sockets import connect
from nri_sync.testing.recordings.entries import PLUGIN, REQUEST, RESPONSE, Entry
from nri_sync.testing.recordings.files import Recorder, masked, to_json
from nri_sync.testing.recordings.proxy import Proxy
from nri_sync.text import printable
from nri_sync.threads import Latch, on_main_thread, spawn

__all__ = ["EntryPrinter", "configure", "duration_text", "run", "size_text"]

_SOCKET = "trace.sock"
# Methods that are no events and have no handler.
_OTHERS = {"registerplugin": "RegisterPlugin", "updatecontainers": "UpdateContainers"}
_FULL_MAX = 1 << 20
# Time limit for a connection to the runtime, in seconds.
_DIAL = 5.0


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--socket", metavar="PATH", default=api.DEFAULT_SOCKET_PATH,
        help="socket of the runtime (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--listen", metavar="PATH",
        help=f"socket for plugins (default: {_SOCKET} beside the socket of the runtime)",
    )  # fmt: skip
    parser.add_argument(
        "--record", metavar="FILE",
        help="write a recording of all messages, for nri-sync replay; --event does not limit it",
    )  # fmt: skip
    parser.add_argument(
        "-e", "--event", metavar="EVENTS",
        help="show only these: names such as createcontainer, or pod, container, configure, "
        "synchronize, registerplugin, updatecontainers; separated by commas",
    )  # fmt: skip
    parser.add_argument("--full", action="store_true", help="show the whole content of messages")
    parser.add_argument(
        "--mask", metavar="NAMES", nargs="?", const=",".join(SECRETS), default="",
        help="mask the values of variables, options, annotations and labels that have these names, in "
        "the output and in the recording; patterns, separated by commas (without NAMES: *password*, "
        "*token* and the like)",
    )  # fmt: skip
    add_output_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Blocks until interrupted."""
    events = _selected(arguments.event)
    listen = arguments.listen or str(Path(arguments.socket).with_name(_SOCKET))
    if Path(listen).resolve() == Path(arguments.socket).resolve():
        raise CommandError(
            f"--listen {listen}: is the socket of the runtime; plugins need another socket",
            ExitCode.USAGE,
        )
    proxy = Proxy(listen, arguments.socket)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_terminated())
        file = stack.enter_context(_new_file(arguments.record)) if arguments.record else None
        stack.callback(proxy.close)
        mask = Mask(filter(None, arguments.mask.split(",")))
        follower = _Follower(proxy, file, events, EntryPrinter(arguments, datetime.now()), mask)
        follower.follow(partial(_listen, proxy, arguments))
    return ExitCode.OK


def _listen(proxy: Proxy, arguments: argparse.Namespace) -> None:
    """Start the proxy, and say where it listens."""
    listen = printable(proxy.listen_path)
    try:
        proxy.start()
    except OSError as error:
        raise CommandError(
            f"--listen {listen}: {error.strerror or error}; choose another path",
            ExitCode.UNREACHABLE,
        ) from error
    if arguments.output == "table":
        print(f"plugins connect to {listen}", file=sys.stderr, flush=True)
    missing = _missing(arguments.socket)
    if missing:
        print(f"nri-sync trace: {missing}", file=sys.stderr, flush=True)


def _missing(path: str) -> str:
    """The reason why the runtime is unreachable; empty if it accepts a connection."""
    try:
        connect(path, Deadline(_DIAL)).close()
    except OSError as error:
        return (
            f"--socket {printable(path)}: {error.strerror or error}: no runtime listens there; "
            "trace rejects plugins until one does"
        )
    return ""


@contextlib.contextmanager
def _terminated() -> Iterator[None]:
    """SIGTERM ends the block in the same way as an interrupt, so that the socket is removed."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    if not on_main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Follower:
    """Consumes the entries on a thread that no interrupt reaches, so that the recording is complete."""

    def __init__(
        self,
        proxy: Proxy,
        file: TextIO | None,
        events: frozenset[str],
        shown: EntryPrinter,
        mask: Mask,
    ) -> None:
        self._proxy, self._file, self._events, self._shown = proxy, file, events, shown
        self._mask = mask
        self._error: Exception | None = None
        # Thread.join() does not do: if it is interrupted, it takes the running thread for an ended one.
        self._over = Latch()

    def follow(self, listen: Callable[[], object]) -> None:
        """Call ``listen()``, which starts the proxy, then block.

        Returns when the output or the recording cannot be written, and raises an interrupt. The thread runs before
        the first plugin can connect, so that an interrupt at any time leaves a complete recording.
        """
        spawn("nri-trace", self._run)
        try:
            listen()
            self._over.wait()
        finally:
            self._proxy.close()
            self._over.wait()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            socket = self._proxy.runtime_path
            entries = (masked(entry, self._mask) for entry in self._proxy)
            for entry in entries if self._file is None else _recorded(entries, self._file, socket):
                if not self._events or not entry.rpc or entry.event in self._events:
                    self._shown.show(entry)
        except Exception as error:
            self._error = error
        finally:
            self._over.set()


def _selected(text: str | None) -> frozenset[str]:
    """The methods to show; empty: all."""
    words = [word.strip() for word in (text or "").split(",") if word.strip()]
    others = {_OTHERS[word.lower()] for word in words if word.lower() in _OTHERS}
    try:
        rest = selected_events([word for word in words if word.lower() not in _OTHERS])
    except ValueError as error:
        raise CommandError(f"--event: {error}", ExitCode.USAGE) from error
    return rest | others


def _create_private(path: str, _flags: int) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)


@contextlib.contextmanager
def _new_file(path: str) -> Iterator[TextIO]:
    """A new file for a recording. Only this user may read it: it has the environment of all containers."""
    try:
        file = open(path, "w", encoding="utf-8", opener=_create_private)  # noqa: SIM115
    except FileExistsError as error:
        raise CommandError(
            f"--record {path}: is there already; remove it, or choose another name", ExitCode.USAGE
        ) from error
    except OSError as error:
        raise CommandError(
            f"--record {path}: cannot be written: {error.strerror}", ExitCode.USAGE
        ) from error
    try:
        yield file
    finally:
        # Each line is flushed when it is written, so an error here has been reported before.
        with contextlib.suppress(OSError):
            file.close()


def _recorded(entries: Iterable[Entry], file: TextIO, socket: str) -> Iterator[Entry]:
    recorder: Recorder | None = None
    for entry in entries:
        try:
            recorder = recorder or Recorder(file, socket=socket)
            recorder.write(entry)
        except OSError as error:
            raise CommandError(
                f"--record {file.name}: {error.strerror}; the recording is complete up to here",
                ExitCode.CRASHED,
            ) from error
        yield entry


class EntryPrinter:
    """Prints each entry when it arrives."""

    def __init__(self, arguments: argparse.Namespace, began: datetime) -> None:
        self._began = began
        self._full = arguments.full
        self._form = arguments.output
        self._out: Console | None = console(arguments) if self._form == "table" else None
        # After a second connection, each line has to name its connection.
        self._several = False

    def show(self, entry: Entry) -> None:
        if self._out is None:
            print_each(to_json(entry), self._form)
            return
        self._several = self._several or entry.connection > 1
        ascii_only = self._out.options.ascii_only
        self._out.print(self.line(entry, ascii_only), soft_wrap=True)
        if self._full and entry.message is not None:
            text = as_text(entry.message, _FULL_MAX)
            for line in text.split("\n") if text != "{}" else ():
                self._out.print(Text.whole(f"    {line}", style="dim"), soft_wrap=True)
        sys.stdout.flush()

    def line(self, entry: Entry, ascii_only: bool) -> Text:
        """The line of an entry, with its styles."""
        at = self._began + timedelta(seconds=entry.time)
        line = Text().append(at.strftime("%H:%M:%S.%f")[:-3] + " ", style="dim")
        if self._several:
            line.append(f"[{entry.connection}] ", style="magenta")
        if entry.kind not in (REQUEST, RESPONSE):
            line.append(f"   {entry.kind:<18}", style="bold")
            line.append(f" {entry.note}" if entry.note else "")
            line.rstrip()
            return line
        arrows = ("<-", "->") if ascii_only else ("\N{LEFTWARDS ARROW}", "\N{RIGHTWARDS ARROW}")
        is_answer = entry.kind == RESPONSE
        # An arrow to the right leads from the runtime to the plugin.
        line.append(f"{arrows[entry.sender != PLUGIN]} ", style="cyan" if is_answer else "green")
        line.append(f"{entry.event or '?':<20} ", style="" if is_answer else "bold")
        line.append(f"#{entry.stream:<4}", style="dim")
        line.append(f"{size_text(entry.size):>8} ", style="dim")
        if entry.duration is not None:
            line.append(f"{duration_text(entry.duration):>8}  ", style="yellow")
        else:
            line.append(" " * (10 if is_answer else 2))
        if entry.code:
            line.append(f"error {_code(entry.code)}: {entry.error}", style="bold red")
        else:
            line.append(_summary(entry))
        if entry.note:
            line.append(f"  ({entry.note})", style="red")
        line.rstrip()
        return line


def size_text(size: int) -> str:
    """A size in bytes, for people."""
    return f"{size} B" if size < 10_000 else f"{size / 1000:.0f} kB"


def duration_text(seconds: float) -> str:
    """A duration, for people."""
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _code(number: int) -> str:
    from nri_sync.rpc.status import code_of

    return code_of(number).name


def _summary(entry: Entry) -> str:
    """The most important content of a message, in a few words."""
    message = entry.message
    if message is None:
        return ""
    describe = _SUMMARIES.get((entry.rpc, entry.kind))
    return describe(message) if describe is not None else _contents(message, entry)


def _contents(message: Any, entry: Entry) -> str:
    if entry.kind == REQUEST:
        return entry.subject
    words = []
    adjusted = getattr(message, "adjust", None)
    if adjusted is not None and adjusted.ByteSize():
        words.append("adjust " + ", ".join(_paths(adjusted)))
    if getattr(message, "update", None):
        words.append("update " + ", ".join(update.container_id[:13] for update in message.update))
    return "; ".join(words)


def _paths(message: Any, prefix: str = "") -> Iterator[str]:
    """The names of the fields that are set; groups of fields are resolved into their members."""
    for field, value in message.ListFields():
        if hasattr(value, "ListFields") and not field.message_type.name.startswith("Optional"):
            yield from _paths(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


def _register(message: Any) -> str:
    version = f", NRI {message.NRI_version}" if message.NRI_version else ""
    return f"{message.plugin_idx}-{message.plugin_name}{version}"


def _configure(message: Any) -> str:
    parts = [f"{message.runtime_name} {message.runtime_version}"]
    if message.NRI_version:
        parts.append(f"NRI {message.NRI_version}")
    if message.request_timeout:
        parts.append(f"request timeout {message.request_timeout / 1000:g} s")
    return ", ".join(parts)


def _subscribed(message: Any) -> str:
    return f"subscribes to {api.EventMask(message.events)}" if message.events else "all events"


def _synchronize(message: Any) -> str:
    more = ", more to come" if message.more else ""
    return f"{len(message.pods)} pods, {len(message.containers)} containers{more}"


def _update_containers(message: Any) -> str:
    words = []
    if message.update:
        words.append("update " + ", ".join(update.container_id[:13] for update in message.update))
    if message.evict:
        words.append("evict " + ", ".join(each.container_id[:13] for each in message.evict))
    return "; ".join(words)


def _failed(message: Any) -> str:
    failed = ", ".join(update.container_id[:13] for update in message.failed)
    return f"failed: {failed}" if failed else ""


_SUMMARIES: dict[tuple[str, str], Any] = {
    ("RegisterPlugin", REQUEST): _register,
    ("Configure", REQUEST): _configure,
    ("Configure", RESPONSE): _subscribed,
    ("Synchronize", REQUEST): _synchronize,
    ("UpdateContainers", REQUEST): _update_containers,
    ("UpdateContainers", RESPONSE): _failed,
}
