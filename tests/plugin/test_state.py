"""The table of the lifecycle: every move that it lists, and no other."""

from __future__ import annotations

import itertools

import pytest

from nri_sync.plugin import state
from nri_sync.plugin.state import TRANSITIONS, Move, State, following

__all__: list[str] = []

LEGAL = {
    (State.IDLE, Move.START): State.STARTING,
    (State.STARTING, Move.CONFIGURED): State.STARTED,
    (State.STARTING, Move.END): State.STOPPING,
    (State.STARTING, Move.ENDED): State.IDLE,
    (State.STARTED, Move.END): State.STOPPING,
    (State.STARTED, Move.ENDED): State.IDLE,
    (State.STOPPING, Move.ENDED): State.IDLE,
}


def test_the_table() -> None:
    assert TRANSITIONS == LEGAL


@pytest.mark.parametrize(("before", "move"), [*itertools.product(State, Move)])
def test_every_move_in_every_state(before: State, move: Move) -> None:
    if (before, move) in LEGAL:
        assert following(before, move) is LEGAL[before, move]
    else:
        with pytest.raises(
            RuntimeError, match=f"'{move.value}' is not possible while {before.value}"
        ):
            following(before, move)


def test_every_state_leads_back_to_idle() -> None:
    for start in State:
        seen = {start}
        while State.IDLE not in seen:
            more = {after for (before, _), after in TRANSITIONS.items() if before in seen}
            assert not more <= seen, f"{start} is a dead end"
            seen |= more


def test_the_diagram_names_every_state_and_move() -> None:
    drawing = (state.__doc__ or "").partition("::")[2]
    for member in (*State, *Move):
        assert member.name in drawing
