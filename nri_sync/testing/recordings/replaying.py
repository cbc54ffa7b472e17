"""Replays a recording: sends the runtime's requests to a plugin, in order, and compares the answers."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from typing import Any

from nri_sync.api import nri_pb2, services
from nri_sync.deadline import Deadline
from nri_sync.errors import CallFailed, NRIError
from nri_sync.kit.program.definition import Program
from nri_sync.rpc.context import RequestContext
from nri_sync.rpc.router import MethodHandler, Router
from nri_sync.rpc.unary import UnaryCall, UnaryMethod
from nri_sync.session import Session
from nri_sync.testing.common import WITHIN
from nri_sync.testing.recordings.comparing import Difference, compare
from nri_sync.testing.recordings.entries import (
    LOST,
    PLUGIN,
    REQUEST,
    RESPONSE,
    RUNTIME,
    Entry,
)
from nri_sync.testing.recordings.files import Recording
from nri_sync.testing.recordings.updating import answer_to, update_recording
from nri_sync.threads import Latch, spawn
from nri_sync.wire.mux import PLUGIN_SERVICE, RUNTIME_SERVICE

__all__ = ["Difference", "check_speed", "replay"]

# The least speed: a pause of a minute takes 17 hours.
_SLOWEST = 0.001
# Seconds; a recording has no greater time. time.sleep() raises OverflowError above nine times as much.
_LONGEST_PAUSE = 1e9

_BEFORE_EVENTS = ("Configure", "Synchronize")


def check_speed(speed: float) -> float:
    """Return the speed; raises ValueError if it is too low, or no number."""
    if not speed >= _SLOWEST:
        raise ValueError(f"the speed must be at least {_SLOWEST}, not {speed!r}")
    return speed


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
    """Send a recording to a plugin, and return the differences of its behaviour. Blocks until the recording ends.

    The plugin gets the same input as on the node. It is registered, configured and synchronized. It receives each
    request after the same answers as before. Its requests get the recorded answers. Messages are equal if their
    content is equal: the order of map entries, and empty messages, do not count. RegisterPlugin is not compared. A
    plugin gets its stub, its configuration and its hooks as in :func:`nri_sync.kit.run`.

    Args:
        recording: a file from ``nri-sync trace --record``, or a Recording.
        plugin: an object with handlers, or a :class:`nri_sync.kit.Program`.
        connection: the number of the connection, if the recording has several.
        config_path: the file of the plugin's configuration; default is the recorded configuration.
        speed: 1 for the recorded pauses, 2 for half of them, at least 0.001; by default there are no pauses.
        timeout: seconds to wait for each answer, and for each request of the plugin.
        update: replace the recorded answers and requests by those of this run, in memory. ``recording.write()``
            saves them. Needs a Recording.

    Raises:
        ValueError: there is no such connection, or there are several to choose from, or the recording lacks the
            beginning of the connection, or the runtime's requests are not those of a runtime, or the speed is out
            of range.
        RecordingError, OSError: the file cannot be read.
        PluginError: the plugin has no handlers.
        ConfigError: the configuration is invalid.
        Unusable: there is a configuration file, and the plugin takes no configuration.
    """
    if speed is not None:
        check_speed(speed)
    source = recording if isinstance(recording, Recording) else Recording.read(recording)
    entries = _chosen(source, connection)
    with contextlib.closing(_Replay(plugin, config_path, entries, speed, timeout)) as played:
        played.run()
    if update:
        update_recording(source, entries, played.answers, played.updates)
    return played.differences


def _is_registration(entry: Entry) -> bool:
    of_plugin = (entry.sender, entry.kind) == (PLUGIN, REQUEST)
    return of_plugin and entry.rpc == "RegisterPlugin" and entry.message is not None


def _chosen(recording: Recording, connection: int | None) -> list[Entry]:
    names = {
        entry.connection: f"{entry.message.plugin_idx}-{entry.message.plugin_name}"
        for entry in recording.entries
        if _is_registration(entry)
    }
    listed = ", ".join(f"{number} of {name}" for number, name in names.items())
    if not names:
        raise ValueError(f"{recording.path}: no plugin has registered in this recording")
    if connection is None and len(names) > 1:
        raise ValueError(f"{recording.path}: choose one of its connections: {listed}")
    number = next(iter(names)) if connection is None else connection
    if number not in names:
        raise ValueError(f"{recording.path}: there is no connection {number}; it has: {listed}")
    entries = [entry for entry in recording.entries if entry.connection == number]
    if any(entry.kind == LOST for entry in entries):
        raise ValueError(f"{recording.path}: the recording of connection {number} is incomplete")
    for entry in entries:
        of_runtime = (entry.sender, entry.kind) == (RUNTIME, REQUEST)
        if of_runtime and entry.message is not None and entry.rpc not in services.PLUGIN.methods:
            raise ValueError(f"{recording.path}: a runtime has no request {entry.rpc}")
    return entries


class _Replay:
    """The runtime's side. One thread sends the requests; threads of the session serve the plugin's requests."""

    def __init__(
        self,
        plugin: object,
        config_path: str | os.PathLike[str] | None,
        entries: list[Entry],
        speed: float | None,
        timeout: float,
    ) -> None:
        self.differences: list[Difference] = []
        #: The answers of the plugin, by the index of the recorded ones.
        self.answers: dict[int, Entry] = {}
        self._entries = entries
        self._speed = speed
        self._timeout = timeout
        self._requests = [e for e in entries if (e.sender, e.kind) == (PLUGIN, REQUEST)]
        self._registered = next(filter(_is_registration, entries))
        self._requests = [entry for entry in self._requests if entry.rpc == "UpdateContainers"]
        #: Guards the requests of the plugin, and the flags.
        self._changed = threading.Condition(threading.Lock())
        self.updates: list[nri_pb2.UpdateContainersRequest] = []
        self._is_registered = False
        self._lost = False
        self._calls: dict[int, tuple[Entry, UnaryCall]] = {}
        self._missing = False
        # Set when start() and on_connected have returned; None once an event has waited for the latch.
        self._hook: Latch | None = None
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

    # Requests of the plugin

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
        if number >= len(self._requests):
            return success
        return self._recorded_answer(self._requests[number], context, success)

    def _recorded_answer(self, request: Entry, context: RequestContext, success: Any) -> Any:
        answer = answer_to(self._entries, request)
        if answer is None:
            return success
        if answer.code:
            context.abort(answer.code, answer.error)
        return success if answer.message is None else answer.message

    def _on_lost(self, cause: NRIError | None) -> None:
        with self._changed:
            self._lost = True
            self._changed.notify_all()

    # Sending

    def run(self) -> None:
        started = self._hook = spawn("nri-replay-start", self._start)
        began = time.monotonic()
        for place, entry in enumerate(self._entries):
            if self._speed:
                pause = (entry.time - self._entries[0].time) / self._speed
                time.sleep(min(max(0.0, began + pause - time.monotonic()), _LONGEST_PAUSE))
            if not self._play(place, entry):
                break
        if self._stub.started:
            self._assembly.call("on_stopping")
        self._deliver_answers()
        # start() may still wait for messages that the recording does not have.
        self._stub.stop()
        started.wait()
        if self._hook_error is not None:
            raise self._hook_error
        self._compare_updates()

    def _start(self) -> None:
        # If start() fails, the differences show the reason: an answer that differs or is missing.
        with contextlib.suppress(NRIError):
            self._stub.start()
            try:
                self._assembly.call("on_connected", self._stub)
            except Exception as error:
                self._hook_error = error

    def _await_hook(self) -> None:
        """Wait for on_connected before the first event, so that the order is the same in each replay.

        A hook that never returns delays the events once, by the time limit.
        """
        hook, self._hook = self._hook, None
        if hook is not None:
            hook.wait(Deadline(self._timeout))

    def _deliver_answers(self) -> None:
        """Wait until the plugin has read the answers to its requests, which stop() would take from it."""
        deadline = Deadline(self._timeout)
        self._session.server.wait_idle(deadline)
        self._session.link.drain(deadline)

    def _play(self, place: int, entry: Entry) -> bool:
        """Process one entry; False when the plugin has disconnected."""
        if entry is self._registered:
            if self._wait(lambda: self._is_registered):
                return True
            self._compare("RegisterPlugin", entry, None)
            return False
        if (entry.sender, entry.kind) == (RUNTIME, REQUEST):
            return self._send(entry)
        if (entry.sender, entry.kind) == (PLUGIN, RESPONSE):
            return self._receive(place, entry)
        if any(entry is request for request in self._requests) and not self._missing:
            number = next(n for n, request in enumerate(self._requests, 1) if request is entry)
            # After the first missing request, waiting for further ones would only take time.
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
        if entry.rpc not in _BEFORE_EVENTS:
            self._await_hook()
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
        if left:
            now.error = f"the plugin has disconnected: {now.error}"
        self._compare(f"{request.event} {request.subject}".rstrip(), recorded, now)
        return not left

    def _compare(self, subject: str, recorded: Entry | None, now: Entry | None) -> None:
        self.differences += compare(subject, recorded, now)

    def _compare_updates(self) -> None:
        with self._changed:
            updates = list(self.updates)
        for number in range(max(len(updates), len(self._requests))):
            recorded = self._requests[number] if number < len(self._requests) else None
            now = None
            if number < len(updates):
                at = self._entries[-1].time if recorded is None else recorded.time
                connection = self._registered.connection
                now = Entry(REQUEST, connection, at, PLUGIN, "UpdateContainers")
                now.message = updates[number]
            self._compare(f"UpdateContainers, number {number + 1} of the plugin", recorded, now)
