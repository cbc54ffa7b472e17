"""The streams of a connection: every move of the tables, every other move, and every mistake of a peer."""

from __future__ import annotations

from typing import Union

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nri_sync.errors import LocalProtocolError
from nri_sync.wire import streams
from nri_sync.wire.streams import (
    CLIENT_MOVES,
    INTERNAL,
    INVALID_ARGUMENT,
    REQUEST_FLAGS,
    RESOURCE_EXHAUSTED,
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
from tests.fuzz.fuzz_streams import one_input

LIVE = [State.UNARY, State.OPEN, State.HALF_CLOSED]
FLAGS = {State.UNARY: 0, State.OPEN: REMOTE_OPEN, State.HALF_CLOSED: REMOTE_CLOSED}
Side = Union[ClientStreams, ServerStreams]


def message(type: int, stream_id: int, flags: int = 0, data: bytes = b"data") -> Message:
    return Message(type, stream_id, flags, len(data), data)


def oversized(type: int, stream_id: int) -> Message:
    return Message(type, stream_id, 0, MESSAGE_MAX + 1, None)


def server_with(state: State) -> ServerStreams:
    """A server with stream 1 in ``state``; without the stream if ``state`` is FINISHED."""
    server = ServerStreams()
    begun = State.UNARY if state is State.FINISHED else state
    assert server.receive(message(REQUEST, 1, FLAGS[begun])) == RequestReceived(1, b"data", begun)
    if state is State.FINISHED:
        assert server.send_response(1)
    return server


def client_with(state: State) -> ClientStreams:
    """A client with stream 1 in ``state``; without the stream if ``state`` is FINISHED."""
    client = ClientStreams()
    assert client.open(State.UNARY if state is State.FINISHED else state) == 1
    if state is State.FINISHED:
        assert client.forget(1)
    return client


@pytest.mark.parametrize("state", LIVE)
def test_the_flags_of_a_request_open_its_state_at_the_server(state: State) -> None:
    request = message(REQUEST, 1, REQUEST_FLAGS[state])
    assert ServerStreams().receive(request) == RequestReceived(1, b"data", state)


def state_of(side: Side) -> State:
    """The state of stream 1, found by the moves that it allows."""
    if not len(side):
        return State.FINISHED
    if isinstance(side, ServerStreams):
        try:
            side.send_data(1)
        except LocalProtocolError:
            return State.UNARY
        event = side.receive(message(DATA, 1))
        return State.OPEN if isinstance(event, DataReceived) else State.HALF_CLOSED
    try:
        side.send_data(1)
    except LocalProtocolError:
        answer = side.receive(message(DATA, 1))
        return State.HALF_CLOSED if isinstance(answer, DataReceived) else State.UNARY
    return State.OPEN


@pytest.mark.parametrize("state", [*LIVE, State.FINISHED])
def test_the_allowed_moves_identify_a_state(state: State) -> None:
    assert state_of(server_with(state)) is state
    assert state_of(client_with(state)) is state


@pytest.mark.parametrize("table", [CLIENT_MOVES, SERVER_MOVES], ids=["client", "server"])
class TestTables:
    def test_nothing_leaves_the_last_state(self, table: dict[tuple[State, Move], State]) -> None:
        assert all(state is not State.FINISHED for state, _ in table)

    def test_every_state_can_be_left(self, table: dict[tuple[State, Move], State]) -> None:
        for begun in LIVE:
            reached = {begun}
            for _ in table:
                reached |= {after for (state, _), after in table.items() if state in reached}
            assert State.FINISHED in reached

    def test_the_data_of_the_client_ends_once(self, table: dict[tuple[State, Move], State]) -> None:
        assert all(
            after in (State.HALF_CLOSED, State.FINISHED)
            for (state, _), after in table.items()
            if state is State.HALF_CLOSED
        )


class TestServerMoves:
    """Every move in every state, whether the table has it or not."""

    @pytest.mark.parametrize("state", [*LIVE, State.FINISHED])
    def test_send_response(self, state: State) -> None:
        server = server_with(state)
        after = SERVER_MOVES.get((state, Move.SEND_RESPONSE))
        assert server.send_response(1) is (after is not None)
        assert state_of(server) is State.FINISHED

    @pytest.mark.parametrize("move", [Move.SEND_DATA, Move.SEND_CLOSE])
    @pytest.mark.parametrize("state", LIVE)
    def test_send_data(self, state: State, move: Move) -> None:
        server = server_with(state)
        end = move is Move.SEND_CLOSE
        after = SERVER_MOVES.get((state, move))
        if after is None:
            with pytest.raises(LocalProtocolError, match=f"stream 1: it is {state.value}"):
                server.send_data(1, end=end)
        else:
            assert server.send_data(1, end=end)
        assert state_of(server) is (after or state)

    @pytest.mark.parametrize("end", [False, True])
    def test_send_data_on_a_stream_that_is_gone(self, end: bool) -> None:
        server = server_with(State.FINISHED)
        assert not server.send_data(1, end=end)
        assert not server.send_data(99, end=end)
        assert len(server) == 0

    @pytest.mark.parametrize("move", [Move.RECEIVE_DATA, Move.RECEIVE_CLOSE])
    @pytest.mark.parametrize("state", LIVE)
    def test_receive_data(self, state: State, move: Move) -> None:
        server = server_with(state)
        end = move is Move.RECEIVE_CLOSE
        event = server.receive(message(DATA, 1, REMOTE_CLOSED if end else 0))
        after = SERVER_MOVES.get((state, move))
        if after is None:
            reason = f"data is not allowed on stream 1: it is {state.value}"
            assert event == Rejected(1, INVALID_ARGUMENT, reason, True)
        else:
            assert event == DataReceived(1, b"data", end)
        assert state_of(server) is (after or State.FINISHED)


class TestServerReceives:
    def test_a_unary_stream_may_begin_without_a_message(self) -> None:
        streams = ServerStreams()
        begun = [streams.begin_unary(number) for number in (2, 3, 3, 1, 4, 5)]
        assert begun == [False, True, False, False, False, True]
        assert len(streams) == 2
        assert streams.send_response(3)
        assert not streams.send_response(3)
        assert isinstance(streams.receive(Message(REQUEST, 5, 0, 0, b"")), Rejected)
        assert isinstance(streams.receive(Message(DATA, 5, 0, 0, b"")), Rejected)

    @pytest.mark.parametrize(
        ("flags", "state"),
        [
            (0, State.UNARY),
            (REMOTE_CLOSED, State.HALF_CLOSED),
            (REMOTE_OPEN, State.OPEN),
            (REMOTE_OPEN | REMOTE_CLOSED, State.OPEN),
            (NO_DATA, State.UNARY),
            (0xFF, State.OPEN),
            (0xFC, State.UNARY),
        ],
    )
    def test_requests_of_all_kinds(self, flags: int, state: State) -> None:
        server = ServerStreams()
        assert server.receive(message(REQUEST, 1, flags)) == RequestReceived(1, b"data", state)
        assert len(server) == 1
        assert state_of(server) is state

    def test_a_request_without_data(self) -> None:
        event = ServerStreams().receive(message(REQUEST, 1, data=b""))
        assert event == RequestReceived(1, b"", State.UNARY)

    def test_gaps_between_ids(self) -> None:
        server = ServerStreams()
        for stream_id in (5, 7, 0xFFFFFFFF):
            event = server.receive(message(REQUEST, stream_id))
            assert event == RequestReceived(stream_id, b"data", State.UNARY)
        assert len(server) == 3

    @pytest.mark.parametrize("stream_id", [1, 5])
    @pytest.mark.parametrize("finished", [False, True])
    def test_a_request_with_an_id_that_does_not_grow(self, stream_id: int, finished: bool) -> None:
        server = ServerStreams()
        server.receive(message(REQUEST, 5))
        if finished:
            server.send_response(5)
        reason = f"stream id {stream_id} is not greater than 5, the last one used"
        assert server.receive(message(REQUEST, stream_id)) == Rejected(
            stream_id, INVALID_ARGUMENT, reason, False
        )
        assert server.send_response(5) is not finished

    @pytest.mark.parametrize("type", [0, REQUEST, RESPONSE, DATA, 255])
    @pytest.mark.parametrize("stream_id", [0, 2, 0xFFFFFFFE])
    def test_an_even_id(self, stream_id: int, type: int) -> None:
        server = server_with(State.OPEN)
        reason = f"stream id {stream_id} is even, a client's must be odd"
        event = server.receive(message(type, stream_id))
        assert event == Rejected(stream_id, INVALID_ARGUMENT, reason, False)
        assert state_of(server) is State.OPEN

    @pytest.mark.parametrize("type", [0, RESPONSE, 4, 255])
    @pytest.mark.parametrize("stream_id", [1, 3])
    def test_a_type_that_is_not_for_servers(self, stream_id: int, type: int) -> None:
        server = server_with(State.OPEN)
        event = server.receive(message(type, stream_id))
        assert event == Ignored(stream_id, f"unexpected message type {type}")
        assert state_of(server) is State.OPEN

    @pytest.mark.parametrize("stream_id", [1, 3])
    def test_data_for_a_stream_that_is_not_live(self, stream_id: int) -> None:
        server = server_with(State.FINISHED)
        event = server.receive(message(DATA, stream_id))
        reason = f"stream {stream_id} is not active"
        assert event == Rejected(stream_id, INVALID_ARGUMENT, reason, False)

    @pytest.mark.parametrize(
        ("flags", "data", "expected"),
        [
            (0, b"x", DataReceived(1, b"x", False)),
            (0, b"", DataReceived(1, b"", False)),
            (NO_DATA, b"", DataReceived(1, None, False)),
            (REMOTE_CLOSED, b"", DataReceived(1, b"", True)),
            (REMOTE_CLOSED, b"x", DataReceived(1, b"x", True)),
            (REMOTE_CLOSED | NO_DATA, b"", DataReceived(1, None, True)),
            (NO_DATA, b"x", DataReceived(1, b"x", False)),
            (0xF8 | REMOTE_OPEN, b"x", DataReceived(1, b"x", False)),
        ],
    )
    def test_data_of_all_kinds(self, flags: int, data: bytes, expected: DataReceived) -> None:
        assert server_with(State.OPEN).receive(message(DATA, 1, flags, data)) == expected
        assert client_with(State.OPEN).receive(message(DATA, 1, flags, data)) == expected

    @pytest.mark.parametrize("type", [0, REQUEST, RESPONSE, DATA, 255])
    @pytest.mark.parametrize(
        ("stream_id", "finished"), [(1, True), (3, False), (2, False), (0, False)]
    )
    def test_an_oversized_message_is_for_its_stream_alone(
        self, type: int, stream_id: int, finished: bool
    ) -> None:
        server = server_with(State.UNARY)
        event = server.receive(oversized(type, stream_id))
        reason = "message length 4194305 exceeds the maximum message size of 4194304"
        assert event == Rejected(stream_id, RESOURCE_EXHAUSTED, reason, finished)
        assert server.send_response(1) is not finished
        assert isinstance(server.receive(message(REQUEST, 3)), RequestReceived)

    def test_streams_are_answered_in_any_order(self) -> None:
        server = ServerStreams()
        for stream_id in (1, 3, 5):
            server.receive(message(REQUEST, stream_id))
        assert [server.send_response(stream_id) for stream_id in (5, 1, 3)] == [True] * 3
        assert len(server) == 0
        assert not server.send_response(1)


class TestClientMoves:
    """Every move in every state, whether the table has it or not."""

    @pytest.mark.parametrize("move", [Move.SEND_DATA, Move.SEND_CLOSE])
    @pytest.mark.parametrize("state", LIVE)
    def test_send_data(self, state: State, move: Move) -> None:
        client = client_with(state)
        end = move is Move.SEND_CLOSE
        after = CLIENT_MOVES.get((state, move))
        if after is None:
            with pytest.raises(LocalProtocolError, match=f"stream 1: it is {state.value}"):
                client.send_data(1, end=end)
        else:
            assert client.send_data(1, end=end)
        assert state_of(client) is (after or state)

    @pytest.mark.parametrize("end", [False, True])
    def test_send_data_on_a_stream_that_is_gone(self, end: bool) -> None:
        client = client_with(State.FINISHED)
        assert not client.send_data(1, end=end)
        assert not client.send_data(2, end=end)
        assert len(client) == 0

    @pytest.mark.parametrize("state", LIVE)
    def test_receive_response(self, state: State) -> None:
        client = client_with(state)
        assert client.receive(message(RESPONSE, 1)) == ResponseReceived(1, b"data")
        assert state_of(client) is CLIENT_MOVES[state, Move.RECEIVE_RESPONSE] is State.FINISHED

    @pytest.mark.parametrize("move", [Move.RECEIVE_DATA, Move.RECEIVE_CLOSE])
    @pytest.mark.parametrize("state", LIVE)
    def test_receive_data(self, state: State, move: Move) -> None:
        client = client_with(state)
        end = move is Move.RECEIVE_CLOSE
        event = client.receive(message(DATA, 1, REMOTE_CLOSED if end else 0))
        after = CLIENT_MOVES.get((state, move))
        if after is None:
            reason = "the server sent stream data in answer to a unary call"
            assert event == StreamFailed(1, INTERNAL, reason)
        else:
            assert event == DataReceived(1, b"data", end)
        assert state_of(client) is (after or State.FINISHED)


class TestClient:
    def test_ids_are_odd_and_grow(self) -> None:
        client = ClientStreams()
        assert [client.open(state) for state in (*LIVE, *LIVE)] == [1, 3, 5, 7, 9, 11]
        assert client.forget(1)
        assert client.open(State.UNARY) == 13
        assert len(client) == 6

    def test_the_last_id(self) -> None:
        client = ClientStreams()
        client.next_id = 0xFFFFFFFD
        assert client.open(State.UNARY) == 0xFFFFFFFD
        assert client.open(State.UNARY) == 0xFFFFFFFF
        for _ in range(2):
            with pytest.raises(LocalProtocolError, match="used up"):
                client.open(State.UNARY)
        assert len(client) == 2
        assert isinstance(client.receive(message(RESPONSE, 0xFFFFFFFF)), ResponseReceived)

    def test_an_empty_response(self) -> None:
        client = client_with(State.UNARY)
        assert client.receive(message(RESPONSE, 1, data=b"")) == ResponseReceived(1, b"")

    def test_flags_of_a_response_mean_nothing(self) -> None:
        client = client_with(State.UNARY)
        assert client.receive(message(RESPONSE, 1, 0xFF)) == ResponseReceived(1, b"data")

    @pytest.mark.parametrize("type", [0, REQUEST, RESPONSE, DATA, 255])
    @pytest.mark.parametrize("stream_id", [0, 1, 2, 5])
    def test_a_message_on_a_stream_that_is_not_live(self, stream_id: int, type: int) -> None:
        client = client_with(State.FINISHED)
        live = client.open(State.UNARY)
        was_open = stream_id == 1
        state_then = "has ended" if was_open else "was never opened"
        reason = f"message of type {type} on a stream that {state_then}"
        assert client.receive(message(type, stream_id)) == Ignored(stream_id, reason, was_open)
        assert client.receive(oversized(type, stream_id)) == Ignored(stream_id, reason, was_open)
        assert client.receive(message(RESPONSE, live)) == ResponseReceived(live, b"data")

    def test_a_late_response(self) -> None:
        client = client_with(State.UNARY)
        assert client.forget(1)
        assert not client.forget(1)
        late = client.receive(message(RESPONSE, 1))
        assert isinstance(late, Ignored)
        assert late.is_late

    @pytest.mark.parametrize("state", LIVE)
    @pytest.mark.parametrize("type", [0, REQUEST, 4, 255])
    def test_a_type_that_is_not_for_clients(self, type: int, state: State) -> None:
        client = client_with(state)
        other = client.open(State.UNARY)
        reason = f"unexpected message type {type} from the server"
        assert client.receive(message(type, 1)) == StreamFailed(1, INTERNAL, reason)
        assert client.receive(message(RESPONSE, other)) == ResponseReceived(other, b"data")
        assert len(client) == 0

    @pytest.mark.parametrize("type", [0, REQUEST, RESPONSE, DATA, 255])
    def test_an_oversized_message_fails_its_call_alone(self, type: int) -> None:
        client = client_with(State.UNARY)
        other = client.open(State.UNARY)
        reason = "message length 4194305 exceeds the maximum message size of 4194304"
        assert client.receive(oversized(type, 1)) == StreamFailed(1, RESOURCE_EXHAUSTED, reason)
        assert client.receive(message(RESPONSE, other)) == ResponseReceived(other, b"data")


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 1, 2, 2, 2, 0x12, 0x82]),
            st.sampled_from([0, 1, 1, 1, 3, 3, 5, 2, 255]),
            st.sampled_from([0, 1, 1, 2, 3, 3, 4]),
            st.integers(0, 7),
        ).map(bytes)
    ).map(b"".join)
)
def test_both_sides_follow_the_tables_in_any_order(data: bytes) -> None:
    one_input(data)


def test_codes_are_those_of_grpc() -> None:
    codes = {code.name: code.value[0] for code in grpc.StatusCode}
    for name in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "INTERNAL"):
        assert getattr(streams, name) == codes[name]
