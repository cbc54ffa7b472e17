"""Connections that wait for their registration."""

from __future__ import annotations

from typing import Any

import pytest

from nri_sync.runtime.pending import PendingConnections

__all__: list[str] = []


class Waiting:
    """A connection of a process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.closed = False

    def close(self) -> None:
        self.closed = True


def enter(pending: Any, *pids: int) -> list[Any]:
    come = [Waiting(pid) for pid in pids]
    for peer in come:
        pending.add(peer)
    return come


def closed(peers: list[Any]) -> list[bool]:
    return [peer.closed for peer in peers]


def test_there_is_room() -> None:
    pending = PendingConnections(3)
    assert closed(enter(pending, 1, 1, 1)) == [False] * 3


def test_the_oldest_goes(caplog: pytest.LogCaptureFixture) -> None:
    peers = enter(PendingConnections(3), 1, 1, 1, 1, 1)
    assert closed(peers) == [True, True, False, False, False]
    text = "4 connections have not registered, 4 of process 1: closing its oldest"
    assert caplog.messages == [text] * 2


def test_connections_of_the_process_with_the_most_are_closed() -> None:
    peers = enter(PendingConnections(3), 1, 2, 3, 2, 2, 2)
    assert closed(peers) == [False, True, False, True, True, False]


def test_a_removed_connection_does_not_count() -> None:
    pending: Any = PendingConnections(2)
    peers = enter(pending, 1, 1)
    pending.discard(peers[0])
    pending.discard(peers[0])
    assert closed(peers + enter(pending, 1)) == [False] * 3
    assert closed(peers + enter(pending, 1)) == [False, True, False]
