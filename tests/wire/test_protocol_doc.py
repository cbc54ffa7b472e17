"""The page about the protocol agrees with the code: its tables are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import nri_sync.errors
from nri_sync.wire import mux, streams, ttrpc
from nri_sync.wire.streams import CLIENT_MOVES, SERVER_MOVES, Move, State

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "protocol.md"
TEXT = PAGE.read_text(encoding="utf-8")


def rows_after(title: str) -> list[list[str]]:
    """The cells of the first table after ``title``, without its heading."""
    found = re.search(rf"{re.escape(title)}.*?\n\n((?:\|[^\n]*\n)+)", TEXT, re.DOTALL)
    assert found
    table = found[1]
    rows = [[cell.strip() for cell in line.strip("|\n ").split("|")] for line in table.splitlines()]
    return rows[2:]


def moves_table(table: dict[tuple[State, Move], State]) -> str:
    """A transition table in the form of the page."""
    moves = [move for move in Move if any(move is allowed for _, allowed in table)]
    lines = [["", *(move.value for move in moves)]]
    for state in State:
        row = [table.get((state, move)) for move in moves]
        if any(row):
            lines.append([state.value, *(after.value if after else "-" for after in row)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(moves) + 1)]
    rendered = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |\n"
        for line in lines
    ]
    rendered.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|\n")
    return "".join(rendered)


@pytest.mark.parametrize(
    ("name", "table"), [("CLIENT_MOVES", CLIENT_MOVES), ("SERVER_MOVES", SERVER_MOVES)]
)
def test_the_transition_tables_are_those_of_the_code(
    name: str, table: dict[tuple[State, Move], State]
) -> None:
    assert f"<!-- table of {name} -->\n\n{moves_table(table)}\n" in TEXT


def test_the_picture_of_the_states_shows_every_way() -> None:
    # The moves that change the state of a stream, on either side.
    ways = {
        (state, after)
        for table in (CLIENT_MOVES, SERVER_MOVES)
        for (state, _), after in table.items()
        if after is not state
    }
    assert ways == {
        (State.UNARY, State.FINISHED),
        (State.OPEN, State.HALF_CLOSED),
        (State.OPEN, State.FINISHED),
        (State.HALF_CLOSED, State.FINISHED),
    }
    for state in State:
        assert re.search(rf"\| +{state.value} +\|", TEXT)


def test_types_and_flags_are_those_of_the_code() -> None:
    numbers = {row[1].strip("`"): int(row[0], 0) for row in rows_after("## ttRPC messages")}
    numbers |= {row[1].strip("`"): int(row[0], 0) for row in rows_after("| 3    | `DATA`")}
    assert {"REQUEST", "RESPONSE", "DATA", "REMOTE_CLOSED", "REMOTE_OPEN", "NO_DATA"} <= set(
        numbers
    )
    assert numbers == {name: getattr(ttrpc, name) for name in numbers}


def test_connection_ids_are_those_of_the_code() -> None:
    services = {row[0]: row[1] for row in rows_after("## Mux frames")}
    assert "`Plugin`" in services[str(mux.PLUGIN_SERVICE)]
    assert "`Runtime`" in services[str(mux.RUNTIME_SERVICE)]


def test_limits_are_those_of_the_code() -> None:
    limits = {row[0]: row[1] for row in rows_after("## Limits")}
    assert limits["data of a message, sent"] == f"{ttrpc.MESSAGE_MAX} bytes"
    assert limits["data of a message, received"] == f"{ttrpc.MESSAGE_MAX} bytes"
    assert limits["payload of a frame, received"] == f"{mux.FRAME_PAYLOAD_MAX} bytes"
    assert limits["first frame of a message, sent"] == f"{mux.FIRST_FRAME_MAX} bytes"
    assert limits["memory held by a `MessageDecoder`"] == (
        f"{ttrpc.MESSAGE_MAX} + {ttrpc.HEADER_LENGTH} bytes"
    )
    assert int(limits["streams of one connection, over its life"]) == len(range(1, 1 << 32, 2))


def test_answers_name_events_and_codes_of_the_code() -> None:
    rows = [row for row in rows_after("## Answers to a peer") if not row[0].startswith("*")]
    assert len(rows) == 16
    named = dict(vars(streams), **vars(nri_sync.errors))
    for _, event, answer in rows:
        for name in re.findall(r"`(\w+)`", event):
            assert name in named
        for name, number in re.findall(r"([A-Z_]{3,}) \((\d+)\)", answer):
            if name != "UNIMPLEMENTED":
                assert getattr(streams, name) == int(number)
