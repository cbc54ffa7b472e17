"""The token: one reader, and a watcher that wakes for bytes and for the end only."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from nri_sync.net.token import ReadToken
from tests.net.rig import LONG, eventually, in_thread

__all__: list[str] = []


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        yield near, far


@pytest.fixture
def token(pair: tuple[socket.socket, socket.socket]) -> Iterator[ReadToken]:
    token = ReadToken(pair[0].fileno())
    yield token
    token.close()
    token.close()


def watching(token: ReadToken) -> threading.Event:
    """Set when a thread that waits for the socket has woken."""
    woken = threading.Event()

    def watch() -> None:
        token.wait()
        woken.set()

    in_thread(watch)
    return woken


class TestHolding:
    def test_one_holder(self, token: ReadToken) -> None:
        seen = [token.is_held, token.regain(), token.is_held, token.regain()]
        token.release()
        assert [*seen, token.is_held] == [False, True, True, False, False]

    def test_take_waits_for_it(self, token: ReadToken) -> None:
        token.take()
        taken = threading.Event()

        def take() -> None:
            token.take()
            taken.set()

        thread = in_thread(take)
        assert not taken.is_set()
        token.drop()
        assert taken.wait(LONG)
        thread.join(LONG)
        assert token.is_held

    def test_another_thread_releases_it(self, token: ReadToken) -> None:
        token.take()
        in_thread(token.release).join(LONG)
        assert token.regain()


class TestWaiting:
    def test_bytes_wake_it_while_the_token_is_free(
        self, token: ReadToken, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        token.take()
        woken = watching(token)
        pair[1].sendall(b"x")
        assert not woken.wait(0.02), "disarmed"
        token.release()
        assert woken.wait(LONG)

    @pytest.mark.parametrize("how", ["regain", "disarm"])
    def test_no_bytes_wake_it_after_that(
        self, token: ReadToken, pair: tuple[socket.socket, socket.socket], how: str
    ) -> None:
        token.take()
        token.release()
        if how == "regain":
            assert token.regain()
        else:
            token.take()
            token.disarm()
        woken = watching(token)
        pair[1].sendall(b"x")
        assert not woken.wait(0.02)
        token.release()
        assert woken.wait(LONG)

    def test_the_end_wakes_it(
        self, token: ReadToken, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        token.take()
        woken = watching(token)
        pair[0].shutdown(socket.SHUT_RDWR)
        token.end()
        assert woken.wait(LONG)
        token.drop()

    def test_no_one_regains_it_after_the_end(
        self, token: ReadToken, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        token.take()
        pair[0].shutdown(socket.SHUT_RDWR)
        token.end()
        token.drop()
        assert token.is_over
        assert not token.regain()
        assert not token.is_held


def test_no_one_regains_it_after_it_is_closed(token: ReadToken) -> None:
    token.close()
    assert not token.regain()
    assert not token.is_held


def test_a_forked_child_is_not_the_holder(token: ReadToken) -> None:
    token.take()
    token.after_fork_in_child()
    assert eventually(lambda: not token.is_held)
