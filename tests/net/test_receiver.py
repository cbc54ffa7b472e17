"""The defaults of a receiver."""

from __future__ import annotations

import math

import pytest

from nri_sync.errors import ConnectionLost
from nri_sync.net.receiver import HEADER, Part, Receiver

__all__: list[str] = []


def test_a_receiver_without_deadlines() -> None:
    assert Receiver().tick(1.0) == math.inf


def test_a_receiver_without_state_of_its_process() -> None:
    receiver = Receiver()
    receiver.after_fork_in_child()
    assert vars(receiver) == {}


def test_bytes_and_the_end_need_a_receiver_of_their_own() -> None:
    with pytest.raises(NotImplementedError):
        Receiver().receive(memoryview(b"x"), [])
    with pytest.raises(NotImplementedError):
        Receiver().lost(ConnectionLost("gone"))


def test_a_header_is_neither_served_nor_refused() -> None:
    assert HEADER is Part.HEADER
    others: list[object] = [True, False, None]
    assert HEADER not in others
