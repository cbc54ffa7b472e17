"""The streams of one logical connection: the allowed order of their messages.

A request of the client opens a stream. The number of a stream is odd and greater than all earlier numbers. A
stream is in one of the states below until it is finished and forgotten. A unary stream has one request and one
response. The two tables are the whole lifecycle: a move that they do not list is not allowed, raises, and changes
nothing.

Client::                                        Server::

    open()    -> UNARY | OPEN | HALF_CLOSED         request -> UNARY | OPEN | HALF_CLOSED
    OPEN        : send data, receive data           OPEN        : receive data, send data
    HALF_CLOSED : receive data                      HALF_CLOSED : send data

HALF_CLOSED means that the client has sent its last data. There is no state for the opposite: the last message of
the server finishes the stream, even if the client has more data to send.

:class:`ServerStreams` and :class:`ClientStreams` turn messages into events and keep the states of the live
streams. They use no I/O, threads or clock. They are not thread-safe: the owner serializes all calls. Source:
PROTOCOL.md of containerd/ttrpc; for the answers to wrong messages of a peer, the Go implementation.
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
    Data,
    Message,
)

__all__ = [
    "CLIENT_MOVES",
    "INTERNAL",
    "INVALID_ARGUMENT",
    "REQUEST_FLAGS",
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

# Status codes of google.rpc.Code, as numbers, because this layer does not depend on gRPC.
INVALID_ARGUMENT = 3
RESOURCE_EXHAUSTED = 8
INTERNAL = 13

#: The number of the last possible stream of a connection: numbers are odd and increase.
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

#: The flags of the request that opens a stream in a state. NO_DATA where the client will send data: a server in
#: Rust takes the payload of the request for the first message otherwise.
REQUEST_FLAGS = {
    State.UNARY: 0,
    State.OPEN: REMOTE_OPEN | NO_DATA,
    State.HALF_CLOSED: REMOTE_CLOSED,
}


class RequestReceived(NamedTuple):
    """A call has begun. ``state`` shows whether it is unary, and whether more data follows."""

    stream_id: int
    data: Data
    state: State


class DataReceived(NamedTuple):
    """A data message of a stream.

    ``data`` is ``None`` for a message without data; ``end`` marks the last message.
    """

    stream_id: int
    data: Data | None
    end: bool


class ResponseReceived(NamedTuple):
    """The response to a call. The stream is finished."""

    stream_id: int
    data: Data


class StreamFailed(NamedTuple):
    """The peer violated the protocol on a stream of this client. The call fails, and the connection continues."""

    stream_id: int
    code: int
    reason: str


class Rejected(NamedTuple):
    """A message that this server must answer with an error status on the stream of the message.

    ``finished`` is True if the message ended a live stream. Discard the answer of its handler then.
    """

    stream_id: int
    code: int
    reason: str
    finished: bool


class Ignored(NamedTuple):
    """A message without effect, to be logged: a late message, or an unknown type."""

    stream_id: int
    reason: str
    #: Whether the stream was open before. The server may send such a message: ttRPC has no message for a
    #: cancellation.
    is_late: bool = False


ServerEvent = Union[RequestReceived, DataReceived, Rejected, Ignored]
ClientEvent = Union[ResponseReceived, DataReceived, StreamFailed, Ignored]


def _oversized(message: Message) -> str:
    return f"message length {message.length} exceeds the maximum message size of {MESSAGE_MAX}"


class ServerStreams:
    """The streams that a peer has opened on this server.

    Call :meth:`receive` for each message, in order, and act on the returned event. Before you send a message on a
    stream, call :meth:`send_data` or :meth:`send_response`, and send it only if the method returns True.
    """

    def __init__(self) -> None:
        self._states: dict[int, State] = {}
        self._last_id = 0

    def __len__(self) -> int:
        """The number of live streams."""
        return len(self._states)

    def begin_unary(self, stream_id: int) -> bool:
        """Begin a unary stream, as :meth:`receive` of its request; False, without a change, if the id is wrong."""
        if stream_id <= self._last_id or not stream_id & 1:
            return False
        self._last_id = stream_id
        self._states[stream_id] = State.UNARY
        return True

    def receive(self, message: Message) -> ServerEvent:
        """The event of ``message``. Never raises: for a wrong message the event is Rejected or Ignored."""
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
                # A live stream with this id continues, because it is not at fault.
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

    def _receive_data(self, stream_id: int, flags: int, data: Data) -> ServerEvent:
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
        """Finish a stream with a response. Returns False if the stream has ended: send nothing then."""
        return self._states.pop(stream_id, None) is not None

    def send_data(self, stream_id: int, *, end: bool = False) -> bool:
        """Send data, or with ``end`` the last data. Returns False if the stream has ended: send nothing then.

        Raises:
            LocalProtocolError: the stream is unary and has one response only.
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

    Allocate a stream with :meth:`open`, and send its request before you allocate the next one, because the peer
    refuses ids that do not increase. Call :meth:`receive` for each message, in order. Call :meth:`forget` for a
    call without a waiting thread.
    """

    def __init__(self) -> None:
        self._states: dict[int, State] = {}
        #: The id of the next stream.
        self.next_id = 1

    def __len__(self) -> int:
        """The number of live streams."""
        return len(self._states)

    def open(self, state: State) -> int:
        """Allocate the id of a new stream.

        Raises:
            LocalProtocolError: all ids of this connection are used. Make a new connection.
        """
        stream_id = self.next_id
        if stream_id > STREAM_ID_MAX:
            raise LocalProtocolError("all stream ids of this connection are used up")
        self.next_id = stream_id + 2
        self._states[stream_id] = state
        return stream_id

    def send_data(self, stream_id: int, *, end: bool = False) -> bool:
        """Send data, or with ``end`` the end of the data.

        Returns False if the stream has ended: send nothing then.

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
        """Remove a stream whose answer is not needed. Returns False if it has ended already. Sends nothing."""
        return self._states.pop(stream_id, None) is not None

    def receive(self, message: Message) -> ClientEvent:
        """The event of ``message``. Never raises: a wrong message fails its stream or is ignored."""
        stream_id = message.stream_id
        state = self._states.get(stream_id)
        if state is None:
            was_open = stream_id % 2 == 1 and stream_id < self.next_id
            state_then = "has ended" if was_open else "was never opened"
            reason = f"message of type {message.type} on a stream that {state_then}"
            return Ignored(stream_id, reason, was_open)
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
