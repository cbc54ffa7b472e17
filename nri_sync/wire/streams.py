"""The streams of one ttRPC connection: which message may follow which.

Every stream is opened by a request of the client, under an odd number that only ever grows, and is in one
of the states below until it is finished and forgotten. A unary stream carries one request and one response.
The two tables are the whole lifecycle: what they do not list is not allowed, raises, and changes nothing.

Client::                                        Server::

    open()    -> UNARY | OPEN | HALF_CLOSED         request -> UNARY | OPEN | HALF_CLOSED
    OPEN        : send data, receive data           OPEN        : receive data, send data
    HALF_CLOSED : receive data                      HALF_CLOSED : send data

HALF_CLOSED means that the client has sent its last data. There is no state for the opposite: a server that
has said its last word has finished the stream, whatever the client still wanted to send.

:class:`ServerStreams` and :class:`ClientStreams` turn messages into events and keep the table of the live
streams. No I/O, threads or clock; not thread-safe: the owner serializes all calls.
Source: PROTOCOL.md of containerd/ttrpc, and its Go implementation for what is answered to a peer that errs.
"""

from __future__ import annotations

import enum
from typing import NamedTuple, Union

from nri_sync.errors import LocalProtocolError
from nri_sync.wire.ttrpc import (
    DATA,
    MESSAGE_MAX,
    NO_DATA,
    REMOTE_CLOSED,
    REMOTE_OPEN,
    REQUEST,
    RESPONSE,
    Message,
)

__all__ = [
    "CLIENT_MOVES",
    "INTERNAL",
    "INVALID_ARGUMENT",
    "RESOURCE_EXHAUSTED",
    "SERVER_MOVES",
    "STREAM_ID_MAX",
    "ClientEvent",
    "ClientStreams",
    "DataReceived",
    "Ignored",
    "Move",
    "Rejected",
    "RequestReceived",
    "ResponseReceived",
    "ServerEvent",
    "ServerStreams",
    "State",
    "StreamFailed",
]

# Status codes of google.rpc.Code, as numbers: this layer knows nothing of gRPC.
INVALID_ARGUMENT = 3
RESOURCE_EXHAUSTED = 8
INTERNAL = 13

#: The last stream of a connection: ids are odd, and only grow.
STREAM_ID_MAX = 0xFFFFFFFF
_new = tuple.__new__  # as in nri_sync.wire.ttrpc


class State(enum.Enum):
    UNARY = "unary"
    OPEN = "open"
    HALF_CLOSED = "half closed"
    FINISHED = "finished"


class Move(enum.Enum):
    SEND_DATA = "send data"
    SEND_CLOSE = "send the end of the data"
    SEND_RESPONSE = "send a response"
    RECEIVE_DATA = "receive data"
    RECEIVE_CLOSE = "receive the end of the data"
    RECEIVE_RESPONSE = "receive a response"


CLIENT_MOVES = {
    (State.UNARY, Move.RECEIVE_RESPONSE): State.FINISHED,
    (State.OPEN, Move.SEND_DATA): State.OPEN,
    (State.OPEN, Move.SEND_CLOSE): State.HALF_CLOSED,
    (State.OPEN, Move.RECEIVE_DATA): State.OPEN,
    (State.OPEN, Move.RECEIVE_CLOSE): State.FINISHED,
    (State.OPEN, Move.RECEIVE_RESPONSE): State.FINISHED,
    (State.HALF_CLOSED, Move.RECEIVE_DATA): State.HALF_CLOSED,
    (State.HALF_CLOSED, Move.RECEIVE_CLOSE): State.FINISHED,
    (State.HALF_CLOSED, Move.RECEIVE_RESPONSE): State.FINISHED,
}

SERVER_MOVES = {
    (State.UNARY, Move.SEND_RESPONSE): State.FINISHED,
    (State.OPEN, Move.RECEIVE_DATA): State.OPEN,
    (State.OPEN, Move.RECEIVE_CLOSE): State.HALF_CLOSED,
    (State.OPEN, Move.SEND_DATA): State.OPEN,
    (State.OPEN, Move.SEND_CLOSE): State.FINISHED,
    (State.OPEN, Move.SEND_RESPONSE): State.FINISHED,
    (State.HALF_CLOSED, Move.SEND_DATA): State.HALF_CLOSED,
    (State.HALF_CLOSED, Move.SEND_CLOSE): State.FINISHED,
    (State.HALF_CLOSED, Move.SEND_RESPONSE): State.FINISHED,
}


# The state of a new stream, by the flags of its request: none, REMOTE_CLOSED, REMOTE_OPEN, both.
_ENDS = REMOTE_CLOSED | REMOTE_OPEN
_REQUEST_STATES = (State.UNARY, State.HALF_CLOSED, State.OPEN, State.OPEN)


class RequestReceived(NamedTuple):
    """A call has begun; ``state`` tells whether it is unary and whether more data follows."""

    stream_id: int
    data: bytes
    state: State


class DataReceived(NamedTuple):
    """One more message of a stream. ``data`` is ``None`` if there is none; ``end``: it was the last."""

    stream_id: int
    data: bytes | None
    end: bool


class ResponseReceived(NamedTuple):
    """The final answer to a call; the stream is finished."""

    stream_id: int
    data: bytes


class StreamFailed(NamedTuple):
    """The peer broke the rules on a stream of this client: the call fails, the connection goes on."""

    stream_id: int
    code: int
    reason: str


class Rejected(NamedTuple):
    """A message that this server must answer with an error status, on the stream it came on.

    ``finished`` tells that a live stream ended by it: its handler's answer is not wanted any more.
    """

    stream_id: int
    code: int
    reason: str
    finished: bool


class Ignored(NamedTuple):
    """A message without effect, for the log: a late response, or a type that is not known."""

    stream_id: int
    reason: str


ServerEvent = Union[RequestReceived, DataReceived, Rejected, Ignored]
ClientEvent = Union[ResponseReceived, DataReceived, StreamFailed, Ignored]


def _oversized(message: Message) -> str:
    return f"message length {message.length} exceeds the maximum message size of {MESSAGE_MAX}"


class ServerStreams:
    """The streams that a peer has opened on this server.

    :meth:`receive` each message, in order, and act on the event it returns. Before anything is sent on a
    stream, ask :meth:`send_data` or :meth:`send_response`, and send nothing when they say no.
    """

    def __init__(self) -> None:
        self._states: dict[int, State] = {}
        self._last_id = 0

    def __len__(self) -> int:
        """How many streams are live."""
        return len(self._states)

    def receive(self, message: Message) -> ServerEvent:
        """What ``message`` means. Never raises: a peer's mistake is :class:`Rejected` or :class:`Ignored`."""
        type, stream_id, flags, _, data = message
        if data is None:
            return self._reject(stream_id, RESOURCE_EXHAUSTED, _oversized(message))
        if not stream_id & 1:
            return self._reject(
                stream_id,
                INVALID_ARGUMENT,
                f"stream id {stream_id} is even, a client's must be odd",
            )
        if type == REQUEST:
            if stream_id <= self._last_id:
                # The live stream of that id, if any, is not to blame and goes on.
                return Rejected(
                    stream_id,
                    INVALID_ARGUMENT,
                    f"stream id {stream_id} is not greater than {self._last_id}, the last one used",
                    finished=False,
                )
            self._last_id = stream_id
            state = _REQUEST_STATES[flags & _ENDS]
            self._states[stream_id] = state
            return _new(RequestReceived, (stream_id, data, state))
        if type == DATA:
            return self._receive_data(stream_id, flags, data)
        return Ignored(stream_id, f"unexpected message type {type}")

    def _receive_data(self, stream_id: int, flags: int, data: bytes) -> ServerEvent:
        state = self._states.get(stream_id)
        if state is None:
            return self._reject(stream_id, INVALID_ARGUMENT, f"stream {stream_id} is not active")
        end = bool(flags & REMOTE_CLOSED)
        move = Move.RECEIVE_CLOSE if end else Move.RECEIVE_DATA
        following = SERVER_MOVES.get((state, move))
        if following is None:
            return self._reject(
                stream_id,
                INVALID_ARGUMENT,
                f"data is not allowed on stream {stream_id}: it is {state.value}",
            )
        self._states[stream_id] = following
        return DataReceived(stream_id, None if flags & NO_DATA and not data else data, end)

    def _reject(self, stream_id: int, code: int, reason: str) -> Rejected:
        finished = self._states.pop(stream_id, None) is not None
        return Rejected(stream_id, code, reason, finished)

    def send_response(self, stream_id: int) -> bool:
        """Finish a stream with a response; False when it is gone and nothing may be sent."""
        return self._states.pop(stream_id, None) is not None

    def send_data(self, stream_id: int, *, end: bool = False) -> bool:
        """Send data, or with ``end`` the last of it; False when the stream is gone.

        Raises:
            LocalProtocolError: the stream is unary, and takes one response only.
        """
        state = self._states.get(stream_id)
        if state is None:
            return False
        following = SERVER_MOVES.get((state, Move.SEND_CLOSE if end else Move.SEND_DATA))
        if following is None:
            raise LocalProtocolError(f"cannot send data on stream {stream_id}: it is {state.value}")
        if following is State.FINISHED:
            del self._states[stream_id]
        return True


class ClientStreams:
    """The streams that this client has opened.

    Allocate with :meth:`open` and send the request before the next one is allocated: the peer refuses ids
    that do not grow. :meth:`receive` each message, in order. :meth:`forget` a call that nobody waits for.
    """

    def __init__(self) -> None:
        self._states: dict[int, State] = {}
        self._next_id = 1

    def __len__(self) -> int:
        """How many streams are live."""
        return len(self._states)

    def open(self, state: State) -> int:
        """Allocate the id of a new stream.

        Raises:
            LocalProtocolError: all ids of this connection are used up; it must be made anew.
        """
        stream_id = self._next_id
        if stream_id > STREAM_ID_MAX:
            raise LocalProtocolError("all stream ids of this connection are used up")
        self._next_id = stream_id + 2
        self._states[stream_id] = state
        return stream_id

    def send_data(self, stream_id: int, *, end: bool = False) -> bool:
        """Send data, or say that there is no more; False when the stream is gone.

        Raises:
            LocalProtocolError: the end of the data has been sent before.
        """
        state = self._states.get(stream_id)
        if state is None:
            return False
        following = CLIENT_MOVES.get((state, Move.SEND_CLOSE if end else Move.SEND_DATA))
        if following is None:
            raise LocalProtocolError(f"cannot send data on stream {stream_id}: it is {state.value}")
        self._states[stream_id] = following
        return True

    def forget(self, stream_id: int) -> bool:
        """Drop a stream whose answer is not wanted; False when it was gone already. Sends nothing."""
        return self._states.pop(stream_id, None) is not None

    def receive(self, message: Message) -> ClientEvent:
        """What ``message`` means. Never raises: a peer's mistake fails its stream or is ignored."""
        stream_id = message.stream_id
        state = self._states.get(stream_id)
        if state is None:
            return Ignored(
                stream_id, f"message of type {message.type} on a stream that is not active"
            )
        data = message.data
        if data is None:
            return self._fail(stream_id, RESOURCE_EXHAUSTED, _oversized(message))
        if message.type == RESPONSE:
            del self._states[stream_id]
            return ResponseReceived(stream_id, data)
        if message.type != DATA:
            return self._fail(
                stream_id, INTERNAL, f"unexpected message type {message.type} from the server"
            )
        end = bool(message.flags & REMOTE_CLOSED)
        following = CLIENT_MOVES.get((state, Move.RECEIVE_CLOSE if end else Move.RECEIVE_DATA))
        if following is None:
            return self._fail(
                stream_id, INTERNAL, "the server sent stream data in answer to a unary call"
            )
        if following is State.FINISHED:
            del self._states[stream_id]
        return DataReceived(stream_id, None if message.flags & NO_DATA and not data else data, end)

    def _fail(self, stream_id: int, code: int, reason: str) -> StreamFailed:
        del self._states[stream_id]
        return StreamFailed(stream_id, code, reason)
