"""A recording played to a plugin: the requests of the runtime, in order, and what is answered compared."""

from __future__ import annotations

import contextlib
import difflib
import os
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any

from nri_sync.api import nri_pb2, services
from nri_sync.deadline import Deadline
from nri_sync.errors import CallFailed, NRIError
from nri_sync.kit.logs.dumps import as_text
from nri_sync.kit.program.definition import Program
from nri_sync.rpc.context import RequestContext
from nri_sync.rpc.router import MethodHandler, Router
from nri_sync.rpc.unary import UnaryCall, UnaryMethod
from nri_sync.session import Session
from nri_sync.testing.common import WITHIN
from nri_sync.testing.recordings.entries import (
    CLOSED,
    LOST,
    PLUGIN,
    REQUEST,
    RESPONSE,
    RUNTIME,
    Entry,
)
from nri_sync.testing.recordings.files import Recording
from nri_sync.text import printable
from nri_sync.threads import spawn
from nri_sync.wire.mux import PLUGIN_SERVICE, RUNTIME_SERVICE

__all__ = ["Difference", "replay"]

_NOTHING = "nothing\n"


@dataclass(frozen=True, repr=False)
class Difference:
    """Something that a plugin has answered, or asked for, otherwise than in the recording."""

    #: What it is about: ``CreateContainer default/web:nginx``.
    what: str
    #: Seconds from the beginning of the recording.
    time: float
    #: As text: a message, an error, or nothing.
    recorded: str
    now: str

    @property
    def diff(self) -> str:
        """The lines that differ, with those around them."""
        lines = difflib.unified_diff(
            self.recorded.splitlines(), self.now.splitlines(), "recorded", "now", lineterm="", n=2
        )
        return "\n".join(lines)

    def __str__(self) -> str:
        return f"{self.what}, {self.time:.3f} s into the recording:\n{self.diff}"

    def __repr__(self) -> str:
        # What pytest shows of a list that should have been empty.
        return f"\n{self}\n"


def replay(
    recording: Recording | str | os.PathLike[str],
    plugin: object,
    *,
    connection: int | None = None,
    config_path: str | os.PathLike[str] | None = None,
    speed: float | None = None,
    timeout: float = WITHIN,
    update: bool = False,
) -> list[Difference]:
    """Play a recording to a plugin. Blocks until it is over, and returns where the plugin acts differently.

    The plugin meets what it met on the node: it is registered, configured and synchronized, gets each request when
    it got it, after the same answers, and its own requests are answered as they were. Messages are equal if they
    say the same; the order of map entries, and messages that are there but empty, say nothing. RegisterPlugin is
    not compared. A plugin has its stub, its configuration and its hooks as in :func:`nri_sync.kit.run`.

    Args:
        recording: a file that ``nri-sync trace --record`` has written, or what was read from it.
        plugin: an object with handlers, or a :class:`nri_sync.kit.Program`.
        connection: which one, if there are several in the recording.
        config_path: the file of its configuration; default is what has been recorded.
        speed: 1 for the pauses that were in between, 2 for half of them; by default there are none.
        timeout: seconds to wait for each answer, and for each request of the plugin.
        update: make what the plugin says now what is recorded, in memory: ``recording.write()`` keeps it. Needs
            a Recording.

    Raises:
        ValueError: there is no such connection, several to choose from, or it has not been recorded from its
            beginning.
        RecordingError, OSError: the file cannot be read.
        PluginError: the plugin has no handlers.
        ConfigError: its configuration says nothing usable.
        Unusable: there is a file, and the plugin takes no configuration.
    """
    source = recording if isinstance(recording, Recording) else Recording.read(recording)
    entries = _chosen(source, connection)
    with contextlib.closing(_Replay(plugin, config_path, entries, speed, timeout)) as played:
        played.run()
    if update:
        _update(source, entries, played)
    return played.differences


def _chosen(recording: Recording, connection: int | None) -> list[Entry]:
    names = {
        entry.connection: f"{entry.message.plugin_idx}-{entry.message.plugin_name}"
        for entry in recording.entries
        if entry.rpc == "RegisterPlugin" and entry.kind == REQUEST and entry.message is not None
    }
    listed = ", ".join(f"{number} of {name}" for number, name in names.items())
    if not names:
        raise ValueError(f"{recording.path}: no plugin has registered in this recording")
    if connection is None and len(names) > 1:
        raise ValueError(f"{recording.path}: choose one of its connections: {listed}")
    number = next(iter(names)) if connection is None else connection
    if number not in names:
        raise ValueError(f"{recording.path}: there is no connection {number}; there is: {listed}")
    entries = [entry for entry in recording.entries if entry.connection == number]
    if any(entry.kind == LOST for entry in entries):
        raise ValueError(f"{recording.path}: connection {number} has not been recorded completely")
    return entries


class _Replay:
    """The runtime's side. One thread plays; those of the session take what the plugin asks for."""

    def __init__(
        self,
        plugin: object,
        config_path: str | os.PathLike[str] | None,
        entries: list[Entry],
        speed: float | None,
        timeout: float,
    ) -> None:
        self.differences: list[Difference] = []
        #: The answers of the plugin, by the place of the recorded ones.
        self.answers: dict[int, Entry] = {}
        self._entries = entries
        self._speed = speed
        self._timeout = timeout
        self._asked = [e for e in entries if (e.sender, e.kind) == (PLUGIN, REQUEST)]
        self._registered = next(e for e in self._asked if e.rpc == "RegisterPlugin")
        self._asked = [entry for entry in self._asked if entry.rpc == "UpdateContainers"]
        #: Guards what the plugin has asked for.
        self._changed = threading.Condition(threading.Lock())
        self.updates: list[nri_pb2.UpdateContainersRequest] = []
        self._is_registered = False
        self._lost = False
        self._calls: dict[int, tuple[Entry, UnaryCall]] = {}
        self._missing = False
        self._hook_error: Exception | None = None
        ours, theirs = socket.socketpair()
        message = self._registered.message
        try:
            self._assembly = Program.of(plugin).assemble(config_path=config_path)
            self._stub = self._assembly.stub(
                name=message.plugin_name,
                idx=message.plugin_idx,
                connection=theirs,
                dialer=None,
                registration_timeout=max(timeout, 1.0),
                late_reply=False,
            )
        except BaseException:
            ours.close()
            theirs.close()
            raise
        self._assembly.give(self._stub)
        self._session = Session(
            ours,
            self._router(),
            serve=RUNTIME_SERVICE,
            call=PLUGIN_SERVICE,
            name="nri-replay",
            peer="replay",
            lost=self._on_lost,
        )
        try:
            spawn("nri-replay", self._session.link.run)
        except BaseException:
            self._session.link.abandon()
            theirs.close()
            raise

    def close(self) -> None:
        """Blocks until both ends are closed."""
        try:
            self._stub.close()
            self._session.link.close()
            with self._changed:
                self._changed.wait_for(lambda: self._lost, WITHIN)
        finally:
            self._assembly.call("on_stop")

    # What the plugin asks for

    def _router(self) -> Router:
        handlers = {"RegisterPlugin": self._register, "UpdateContainers": self._update}
        methods = {
            rpc: MethodHandler(
                handler,
                services.RUNTIME.methods[rpc].request.FromString,
                services.RUNTIME.methods[rpc].response.SerializeToString,
            )
            for rpc, handler in handlers.items()
        }
        return Router({services.RUNTIME.full_name: methods})

    def _register(self, request: Any, context: RequestContext) -> Any:
        with self._changed:
            self._is_registered = True
            self._changed.notify_all()
        return self._recorded_answer(self._registered, context, nri_pb2.Empty())

    def _update(self, request: Any, context: RequestContext) -> Any:
        with self._changed:
            number = len(self.updates)
            self.updates.append(request)
            self._changed.notify_all()
        success = nri_pb2.UpdateContainersResponse()
        if number >= len(self._asked):
            return success
        return self._recorded_answer(self._asked[number], context, success)

    def _recorded_answer(self, request: Entry, context: RequestContext, success: Any) -> Any:
        answer = _answer_to(self._entries, request)
        if answer is None:
            return success
        if answer.code:
            context.abort(answer.code, answer.error)
        return success if answer.message is None else answer.message

    def _on_lost(self, cause: NRIError | None) -> None:
        with self._changed:
            self._lost = True
            self._changed.notify_all()

    # Playing

    def run(self) -> None:
        started = spawn("nri-replay-start", self._start)
        began = time.monotonic()
        for place, entry in enumerate(self._entries):
            if self._speed:
                pause = (entry.time - self._entries[0].time) / self._speed
                time.sleep(max(0.0, began + pause - time.monotonic()))
            if not self._play(place, entry):
                break
        if self._stub.started:
            self._assembly.call("on_stopping")
        # It may still wait for what was not recorded.
        self._stub.stop()
        started.wait()
        if self._hook_error is not None:
            raise self._hook_error
        self._compare_updates()

    def _start(self) -> None:
        # Why it fails is what the plugin answers, or does not.
        with contextlib.suppress(NRIError):
            self._stub.start()
            try:
                self._assembly.call("on_connected", self._stub)
            except Exception as error:
                self._hook_error = error

    def _play(self, place: int, entry: Entry) -> bool:
        """Do what stands there; False when the plugin has left."""
        if entry is self._registered:
            if self._wait(lambda: self._is_registered):
                return True
            self._compare("RegisterPlugin", entry, None)
            return False
        if (entry.sender, entry.kind) == (RUNTIME, REQUEST):
            return self._send(entry)
        if (entry.sender, entry.kind) == (PLUGIN, RESPONSE):
            return self._receive(place, entry)
        if any(entry is asked for asked in self._asked) and not self._missing:
            number = next(n for n, asked in enumerate(self._asked, 1) if asked is entry)
            # A plugin that has left out one would have each further one waited for.
            self._missing = not self._wait(lambda: len(self.updates) >= number)
        return True

    def _wait(self, condition: Any) -> bool:
        deadline = Deadline(self._timeout)
        with self._changed:
            while not condition():
                remaining = deadline.remaining()
                if self._lost or remaining == 0.0:
                    return False
                self._changed.wait(remaining)
        return True

    def _send(self, entry: Entry) -> bool:
        if entry.rpc == "Shutdown" or entry.message is None:
            return True
        method = services.PLUGIN.methods[entry.rpc]
        call = UnaryMethod(
            self._session.client,
            method.path,
            method.request.SerializeToString,
            method.response.FromString,
        )
        self._calls[entry.stream] = entry, call.begin(entry.message, self._timeout)
        return True

    def _receive(self, place: int, recorded: Entry) -> bool:
        request, call = self._calls.pop(recorded.stream, (None, None))
        if request is None or call is None:
            return True
        now = Entry(**{**vars(recorded), "message": None, "payload": None, "code": 0, "error": ""})
        left = False
        try:
            now.message = call.result()
            now.size = now.message.ByteSize()
        except CallFailed as error:
            now.code, now.error = int(error.code()), error.details()
            left = self._lost
        self.answers[place] = now
        what = f"{request.event} {request.subject}".rstrip()
        if left:
            now.error = f"the plugin has left: {now.error}"
        self._compare(what, recorded, now)
        return not left

    def _compare(self, what: str, recorded: Entry | None, now: Entry | None) -> None:
        if _content(recorded) == _content(now):
            return
        entry = recorded or now
        assert entry is not None
        self.differences.append(Difference(what, entry.time, _text(recorded), _text(now)))

    def _compare_updates(self) -> None:
        with self._changed:
            updates = list(self.updates)
        for number in range(max(len(updates), len(self._asked))):
            recorded = self._asked[number] if number < len(self._asked) else None
            now = None
            if number < len(updates):
                at = self._entries[-1].time if recorded is None else recorded.time
                connection = self._registered.connection
                now = Entry(REQUEST, connection, at, PLUGIN, "UpdateContainers")
                now.message = updates[number]
            self._compare(f"UpdateContainers, number {number + 1} of the plugin", recorded, now)


def _answer_to(entries: list[Entry], request: Entry) -> Entry | None:
    for entry in entries:
        if (
            entry.kind == RESPONSE
            and entry.sender != request.sender
            and entry.stream == request.stream
        ):
            return entry
    return None


def _content(entry: Entry | None) -> Any:
    """What two entries are compared by."""
    if entry is None:
        return None
    if entry.code:
        return entry.code, entry.error
    return (
        None
        if entry.message is None
        else _without_empty(entry.message).SerializeToString(deterministic=True)
    )


def _without_empty(message: Any) -> Any:
    """A copy without messages that are there, but say nothing. Optional values do, even 0."""
    copy = type(message)()
    copy.CopyFrom(message)
    copy.DiscardUnknownFields()
    _strip(copy)
    return copy


def _strip(message: Any) -> bool:
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            continue
        if isinstance(value, type(message)) or hasattr(value, "ListFields"):
            optional = field.message_type.name.startswith("Optional")
            if not optional and not _strip(value):
                message.ClearField(field.name)
        else:
            for item in value:
                _strip(item)
    return bool(message.ListFields())


def _text(entry: Entry | None) -> str:
    if entry is None:
        return _NOTHING
    if entry.code:
        return f"error {entry.code}: {printable(entry.error)}\n"
    if entry.message is None:
        return f"{printable(entry.note or 'nothing')}\n"
    return as_text(_without_empty(entry.message), 1 << 20) + "\n"


def _update(recording: Recording, entries: list[Entry], played: _Replay) -> None:
    """Put what the plugin has said now in place of what is recorded."""
    replaced: dict[int, Entry | None] = {
        id(entries[place]): now for place, now in played.answers.items()
    }
    asked = [e for e in entries if e.rpc == "UpdateContainers" and e.kind == REQUEST]
    for number, entry in enumerate(asked):
        if number < len(played.updates):
            entry.message, entry.payload = played.updates[number], None
            entry.size = entry.message.ByteSize()
        else:
            replaced[id(entry)] = None
            answer = _answer_to(entries, entry)
            if answer is not None:
                replaced[id(answer)] = None
    added = _new_updates(entries, played.updates[len(asked) :])
    found: list[Entry] = []
    for entry in recording.entries:
        if entry is entries[-1] and entry.kind == CLOSED:
            found += added
            added = []
        kept = replaced.get(id(entry), entry)
        if kept is not None:
            found.append(kept)
    recording.entries[:] = found + added


def _new_updates(
    entries: list[Entry], updates: list[nri_pb2.UpdateContainersRequest]
) -> list[Entry]:
    found = []
    stream = max(e.stream for e in entries if e.sender == PLUGIN and e.kind == REQUEST)
    connection, at, rpc = entries[-1].connection, entries[-1].time, "UpdateContainers"
    for update in updates:
        stream += 2
        found.append(Entry(REQUEST, connection, at, PLUGIN, rpc, stream, update.ByteSize(), update))
        answer = nri_pb2.UpdateContainersResponse()
        found.append(Entry(RESPONSE, connection, at, RUNTIME, rpc, stream, 0, answer, duration=0.0))
    return found
