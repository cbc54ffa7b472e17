"""The fast lane: a plain request, from the bytes of the runtime to the bytes of the answer, in one function.

Nearly every request is plain: it comes whole and alone, its method has a handler without interceptors around it,
and it has no metadata. The general way handles a request layer by layer (see docs/request.md). The lane does the
same work in one place, by a table that is made once for a stub. A key of the table is the beginning of an
envelope, the bytes of the service and the method.

The general way stays the reference. A request that is not plain leaves the lane before the lane has changed
anything, and the link hands its bytes to the general way. The call of a plain request is in the same tables as all
calls: late answers, cancellations, the end of the connection and ``stop()`` find it there. The functions of the
general way handle the errors.
"""

from __future__ import annotations

import _thread
import functools
import time
from collections.abc import Sequence
from struct import Struct
from typing import Any, Callable, NamedTuple

from nri_sync.api import Adjustment, nri_pb2
from nri_sync.api.handlers import HANDLERS, Handler
from nri_sync.api.repeats import has_distinct_keys
from nri_sync.api.services import PLUGIN
from nri_sync.net.link import Buffer
from nri_sync.net.receiver import HEADER, Lane, Part
from nri_sync.plugin.servicer import ServedConnection, Servicer
from nri_sync.plugin.spec import PluginSpec
from nri_sync.rpc import envelope_pb2
from nri_sync.rpc.callbacks import run_callbacks
from nri_sync.rpc.context import RequestContext, current_context
from nri_sync.rpc.envelope import encode_error, encode_success
from nri_sync.rpc.frames import calls_handlers
from nri_sync.rpc.server import ServerEnd
from nri_sync.rpc.server_call import ServerCall, not_decoded, not_encoded, timeout_of
from nri_sync.rpc.status import Status
from nri_sync.session import Session
from nri_sync.wire.mux import FIRST_FRAME_MAX, FRAME_PAYLOAD_MAX, PLUGIN_SERVICE
from nri_sync.wire.ttrpc import HEADER_LENGTH, REQUEST, RESPONSE
from nri_sync.wire.varint import decode_varint, encode_varint

__all__ = ["FastLane", "LaneCall"]

# These methods are rare, or do more than to call a handler.
_NEVER_PLAIN = frozenset({"Configure", "Synchronize", "ValidateContainerAdjustment"})

_FRAME_HEADER = Struct(">II")
# The header of the frame: connection, length. Of the message: length, stream, type, flags. Of the envelope: the
# tag and the length of the service.
_REQUEST_HEADERS = Struct(">IIIIBBBB")
_BEFORE_ENVELOPE = 8 + HEADER_LENGTH
# The same for a response, without an envelope, and with the tag and the length of the payload in one byte or two.
_EMPTY = Struct(">IIIIBB")
_SHORT = Struct(">IIIIBBBB")
_LONGER = Struct(">IIIIBBBBB")
# The longest payload of a response in one frame.
_LONGEST = FIRST_FRAME_MAX - HEADER_LENGTH - 3

# The tags of the fields of a request's envelope: service, method, payload. Each has a length.
_SERVICE, _METHOD, _PAYLOAD = 0x0A, 0x12, 0x1A
# The last field, which may be missing, is a positive number. All bytes of it have the high bit, except the last.
_TIMEOUT, _LONGEST_TIMEOUT = 0x20, 10
_CONTINUED = bytes(range(0x80, 0x100))
# Of a response's envelope: the payload. Of a CreateContainerResponse: the adjustment.
_RESPONSE_PAYLOAD = 0x12
_ADJUST = 0x0A

# Stands for the reply before the handler has returned one.
_NO_REPLY = object()
_ADJUSTMENT = nri_pb2.ContainerAdjustment
_set_context, _reset_context = current_context.set, current_context.reset
_get_ident, _monotonic = _thread.get_ident, time.monotonic


class _Entry(NamedTuple):
    """A method of the table."""

    handler: str
    path: str
    method: Callable[..., Any]
    parse: Callable[[bytes], Any]
    arguments: Callable[[Any], Sequence[Any]]
    #: Makes the reply of the handler's result: a message, its payload, or None for an empty one.
    reply: Callable[[Any], Any]
    #: Makes the payload of a reply.
    encode: Callable[[Any], bytes | Status]


class LaneCall(ServerCall, RequestContext):
    """The call of a plain request, and its context: one object, since most handlers never ask for the context."""

    inbox = None
    counts = True
    begun = True
    _metadata = ()

    def __init__(
        self, end: ServerEnd, entry: _Entry, stream_id: int, data: bytes, conn: ServedConnection
    ) -> None:
        self.since = _monotonic()
        self.stream_id = stream_id
        self.handler, self.method = entry[:2]
        self.owner = conn
        self.runtime = conn.facts
        self._end = end
        self._data = data

    @property
    def context(self) -> RequestContext:  # type: ignore[override]
        return self

    @property
    def _timeout(self) -> float | None:  # type: ignore[override]
        return timeout_of(envelope_pb2.Request.FromString(bytes(self._data)).timeout_nano)

    @property
    def _peer(self) -> str:  # type: ignore[override]
        return self._end.peer

    def sent(self) -> None:
        # As the base class, with one call less.
        if not self.by_reply:
            self._end.mark_sent(self)
            if self.answered is not None:
                self.answered.set()


class FastLane:
    """The fast lane of a stub, for all of its connections."""

    def __init__(self, plugin: PluginSpec, servicer: Servicer) -> None:
        self._tally = plugin.tally
        self._servicer = servicer
        # By the beginning of an envelope, the bytes of the service and the method.
        self._table: dict[bytes, _Entry] = {}
        if not plugin.interceptors.serve_requests:
            for handler in HANDLERS:
                method = plugin.handlers.get(handler.name)
                if method is not None and handler.rpc not in _NEVER_PLAIN:
                    self._table[_key(handler.rpc)] = _entry(handler, method)

    def open(self, session: Session, conn: ServedConnection) -> None:
        """Have the link of a new session serve plain requests by the lane."""
        if self._table:
            session.link.lane = self._make(session, conn)

    def _make(self, session: Session, conn: ServedConnection) -> Lane:  # noqa: C901, PLR0915  # one function on purpose
        link, end = session.link, session.server
        token, timer, workers, answer = link.token, link.timer, link.workers, link.answer
        servicer, tally = self._servicer, self._tally
        ignored, running = conn.ignored, end.running
        find, unpack = self._table.get, _REQUEST_HEADERS.unpack_from

        def serve(view: memoryview, count: int) -> bool | Part | None:  # noqa: C901
            # Is the request plain? Nothing changes before begin().
            if count < _REQUEST_HEADERS.size or not session.between or ignored.is_needed:
                waits = session.between and not workers.backlog and _is_header(view, count)
                return HEADER if waits else None
            connection, framed, length, stream_id, kind, flags, tag, size = unpack(view)
            if (
                connection != PLUGIN_SERVICE
                or kind != REQUEST
                or flags
                or framed != count - 8
                or length != count - _BEFORE_ENVELOPE
                or tag != _SERVICE
                or workers.backlog
                or not (workers.is_watched or workers.appoint_watcher())
            ):
                return None
            data = view[_BEFORE_ENVELOPE:count].tobytes()
            try:
                start = size + 4 + data[size + 3]
                entry = find(data[:start])
                if entry is None or data[start] != _PAYLOAD:
                    return None
                size = data[start + 1]
                start += 2
                if size >= 0x80:
                    size = size & 0x7F | data[start] << 7
                    start += 1
                    if size >= 0x4000:
                        size, start = decode_varint(data, start - 2)
                stop = start + size
                if stop != length and (
                    data[stop] != _TIMEOUT
                    or length - stop > _LONGEST_TIMEOUT
                    or len(data[stop + 1 :].lstrip(_CONTINUED)) != 1
                ):
                    return None
            except (IndexError, ValueError):
                return None
            call = LaneCall(end, entry, stream_id, data, conn)
            if not end.begin(call):
                return None
            if call.due < timer.due:
                link.wake_by(call.due)
            # The request is plain. From here on as in ServerCall.run() and Servicer._call(), without the token.
            token.release()
            thread = _get_ident()
            running[thread] = call
            message: Sequence[Buffer] = ()
            try:
                _, _, method, parse, arguments, make_reply, encode = entry
                request, reply = None, _NO_REPLY
                context = _set_context(call)
                try:
                    call.request = request = parse(data[start:stop])
                    tally.add("requests")
                    reply = make_reply(method(*arguments(request)))
                    if call.status_code is not None:
                        outcome = _explicit(servicer, call, reply, encode)
                    elif reply is None:
                        outcome = b""
                    elif type(reply) is bytes:
                        outcome = reply
                    else:
                        outcome = encode(reply)
                except BaseException as error:
                    outcome = _failed(servicer, call, request, reply, error)
                finally:
                    _reset_context(context)
                if not end.finish(call):
                    call.not_wanted(outcome)
                elif isinstance(outcome, bytes):
                    message = _response(stream_id, outcome, end)
                else:
                    message = encode_error(stream_id, outcome, end.frame)
                callbacks = call.end()
                if callbacks:
                    run_callbacks(callbacks)
            except BaseException as error:  # a bug, which must not end the thread
                message = call.crashed(error) or message
            del running[thread]
            return answer(call, message)

        calls_handlers(serve.__code__)
        return serve


def _is_header(view: memoryview, count: int) -> bool:
    """Whether the header of a frame has come alone.

    A Go runtime writes the header and the payload by two calls. The first one wakes the thread that reads.
    """
    if count != _FRAME_HEADER.size:
        return False
    connection, size = _FRAME_HEADER.unpack_from(view)
    return bool(connection == PLUGIN_SERVICE and HEADER_LENGTH < size <= FRAME_PAYLOAD_MAX)


def _key(rpc: str) -> bytes:
    service, method = PLUGIN.full_name.encode(), rpc.encode()
    return bytes((_SERVICE, len(service))) + service + bytes((_METHOD, len(method))) + method


def _entry(handler: Handler, method: Callable[..., Any]) -> _Entry:
    types = PLUGIN.methods[handler.rpc]
    is_create = handler.rpc == "CreateContainer"
    return _Entry(
        handler.name,
        types.path,
        method,
        types.request.FromString,
        handler.arguments(),
        functools.partial(_reply_to_create, handler.reply) if is_create else handler.reply,
        types.response.SerializeToString,
    )


def _reply_to_create(make_reply: Callable[[Any], Any], result: Any) -> Any:
    """The payload, where the reply is an adjustment only: the adjustment need not be copied into a response."""
    adjustment = result.message if type(result) is Adjustment else result
    if type(adjustment) is not _ADJUSTMENT:
        return make_reply(result)
    data: bytes = adjustment.SerializeToString()
    if not has_distinct_keys(adjustment, data):
        return make_reply(result)
    size = len(data)
    if size < 0x80:
        return bytes((_ADJUST, size)) + data
    if size < 0x4000:
        return bytes((_ADJUST, size & 0x7F | 0x80, size >> 7)) + data
    return bytes((_ADJUST,)) + encode_varint(size) + data


calls_handlers(_reply_to_create.__code__)  # an exception here is not of the lane


def _explicit(
    servicer: Servicer, call: LaneCall, reply: Any, encode: Callable[[Any], bytes | Status]
) -> bytes | Status:
    """The outcome where the handler has set a code."""
    servicer.forbid_unimplemented(call)
    status = call.status(None)
    if status is not None:
        return status
    return reply or b"" if reply is None or type(reply) is bytes else encode(reply)


def _failed(
    servicer: Servicer, call: LaneCall, request: Any, reply: Any, error: BaseException
) -> Status:
    """The outcome of an exception: of parsing the request, of the handler, or of encoding the reply."""
    if request is None:
        return not_decoded(error)
    if reply is not _NO_REPLY:
        return not_encoded(call.method, error)
    servicer.raised(error, call)
    servicer.forbid_unimplemented(call)
    return call.failure(error, call)


def _response(stream_id: int, payload: bytes, end: ServerEnd) -> Sequence[Buffer]:
    """As encode_success(), with one pack for a response that fits a frame."""
    size = len(payload)
    if size > _LONGEST:
        return encode_success(stream_id, payload, end.frame)
    if not size:
        return (_EMPTY.pack(PLUGIN_SERVICE, HEADER_LENGTH, 0, stream_id, RESPONSE, 0),)
    if size < 0x80:
        head = _SHORT.pack(
            PLUGIN_SERVICE, size + 12, size + 2, stream_id, RESPONSE, 0, _RESPONSE_PAYLOAD, size
        )
    else:
        low, high = size & 0x7F | 0x80, size >> 7
        head = _LONGER.pack(
            PLUGIN_SERVICE, size + 13, size + 3, stream_id, RESPONSE, 0, _RESPONSE_PAYLOAD, low, high
        )  # fmt: skip
    return (head + payload,)
