"""Fuzz target: the stream tables of both sides, with arbitrary messages and calls of the application.

Four bytes of the input are one step: its kind, its stream, and two details. A model follows the transition tables,
and uses only the calls and the returned events.
"""

from __future__ import annotations

from typing import NamedTuple

from nri_sync.errors import LocalProtocolError
from nri_sync.wire import streams
from nri_sync.wire.streams import (
    CLIENT_MOVES,
    SERVER_MOVES,
    ClientStreams,
    DataReceived,
    Ignored,
    Move,
    Rejected,
    RequestReceived,
    ResponseReceived,
    ServerStreams,
    State,
    StreamFailed,
)
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

__all__ = ["one_input"]


class Step(NamedTuple):
    action: int
    stream_id: int
    detail: int
    flags: int


def one_input(data: bytes) -> None:
    steps = [Step(*data[at : at + 4]) for at in range(0, len(data) - 3, 4)]
    _serve(steps)
    _call(steps)


def _message(step: Step) -> Message:
    if step.action & 0x80:
        return Message(step.detail, step.stream_id, step.flags, MESSAGE_MAX + 1, None)
    payload = b"x" * (step.action >> 4 & 3)
    return Message(step.detail, step.stream_id, step.flags, len(payload), payload)


def _serve(steps: list[Step]) -> None:
    server, model, last_id = ServerStreams(), dict[int, State](), 0

    for step in steps:
        stream_id = step.stream_id
        before = model.get(stream_id)
        action = step.action & 3
        if action == 0:
            answered = server.send_response(stream_id)
            assert answered == (before is not None)
            if before is not None:
                assert SERVER_MOVES[before, Move.SEND_RESPONSE] is State.FINISHED
                del model[stream_id]
        elif action == 1:
            end = bool(step.flags & 1)
            move = Move.SEND_CLOSE if end else Move.SEND_DATA
            _send(
                server, model, stream_id, end, SERVER_MOVES.get((before, move)) if before else None
            )
        else:
            message = _message(step)
            event = server.receive(message)
            assert event.stream_id == stream_id
            if isinstance(event, RequestReceived):
                assert message.type == REQUEST
                assert stream_id % 2 == 1
                assert stream_id > last_id
                assert event.data == message.data
                assert (event.state is State.UNARY) == (
                    not step.flags & (REMOTE_CLOSED | REMOTE_OPEN)
                )
                last_id = stream_id
                model[stream_id] = event.state
            elif isinstance(event, DataReceived):
                assert message.type == DATA
                assert event.end == bool(step.flags & REMOTE_CLOSED)
                _check_data(message, event)
                assert before is not None
                model[stream_id] = SERVER_MOVES[
                    before, Move.RECEIVE_CLOSE if event.end else Move.RECEIVE_DATA
                ]
            elif isinstance(event, Rejected):
                assert event.code in (streams.INVALID_ARGUMENT, streams.RESOURCE_EXHAUSTED)
                assert (event.code == streams.RESOURCE_EXHAUSTED) == (message.data is None)
                assert event.reason
                if event.finished:
                    assert before is not None
                    del model[stream_id]
            else:
                assert isinstance(event, Ignored)
                assert message.type not in (REQUEST, DATA)
        assert len(server) == len(model)


def _call(steps: list[Step]) -> None:
    client, model, last_id = ClientStreams(), dict[int, State](), -1

    for step in steps:
        stream_id = step.stream_id
        before = model.get(stream_id)
        action = step.action & 3
        if action == 0 and step.detail & 1:
            assert client.forget(stream_id) == (before is not None)
            model.pop(stream_id, None)
        elif action == 0:
            state = (State.UNARY, State.OPEN, State.HALF_CLOSED)[step.detail % 3]
            stream_id = client.open(state)
            assert stream_id == last_id + 2
            last_id = stream_id
            model[stream_id] = state
        elif action == 1:
            end = bool(step.flags & 1)
            move = Move.SEND_CLOSE if end else Move.SEND_DATA
            _send(
                client, model, stream_id, end, CLIENT_MOVES.get((before, move)) if before else None
            )
        else:
            message = _message(step)
            event = client.receive(message)
            assert event.stream_id == stream_id
            assert isinstance(event, Ignored) == (before is None)
            if before is None:
                pass
            elif isinstance(event, DataReceived):
                assert message.type == DATA
                _check_data(message, event)
                assert event.end == bool(step.flags & REMOTE_CLOSED)
                after = CLIENT_MOVES[before, Move.RECEIVE_CLOSE if event.end else Move.RECEIVE_DATA]
                _move(model, stream_id, after)
            elif isinstance(event, ResponseReceived):
                assert message.type == RESPONSE
                assert event.data == message.data
                _move(model, stream_id, CLIENT_MOVES[before, Move.RECEIVE_RESPONSE])
            else:
                assert isinstance(event, StreamFailed)
                assert (event.code == streams.RESOURCE_EXHAUSTED) == (message.data is None)
                _move(model, stream_id, State.FINISHED)
        assert len(client) == len(model)


def _send(
    side: ClientStreams | ServerStreams,
    model: dict[int, State],
    stream_id: int,
    end: bool,
    after: State | None,
) -> None:
    """Send data on a stream of either side, and check that the side follows its table."""
    try:
        sent = side.send_data(stream_id, end=end)
    except LocalProtocolError:
        assert stream_id in model
        assert after is None
        return
    assert sent == (stream_id in model)
    if sent:
        assert after is not None
        _move(model, stream_id, after)


def _move(model: dict[int, State], stream_id: int, after: State) -> None:
    if after is State.FINISHED:
        del model[stream_id]
    else:
        model[stream_id] = after


def _check_data(message: Message, event: DataReceived) -> None:
    if message.flags & NO_DATA and not message.data:
        assert event.data is None
    else:
        assert event.data == message.data
