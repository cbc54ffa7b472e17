"""The writer: messages stay whole, no caller blocks longer than it wants, and a begun message is finished."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from nri_sync import threads
from nri_sync.deadline import Deadline
from nri_sync.errors import ConnectionLost, NoThread
from nri_sync.net.writer import Writer, is_ready
from tests.net.rig import LONG, Peer, eventually, fill, in_thread, linked, read_exactly

__all__: list[str] = []

# Far more than the buffers of a socket hold.
BIG = 8 * 1024 * 1024


class Rig:
    """A writer, its peer, and the failures that it reports."""

    def __init__(self) -> None:
        self.near, far = socket.socketpair()
        self.peer = Peer(far)
        self.failures: list[ConnectionLost] = []
        self.writer = Writer(self.near, self._broken, name="rig")

    def _broken(self, error: ConnectionLost) -> None:
        assert not self.writer.is_busy, "it may send, or close the connection"
        self.failures.append(error)
        self.near.shutdown(socket.SHUT_RDWR)

    def is_idle(self) -> bool:
        return eventually(lambda: not self.writer.is_busy)


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.near.shutdown(socket.SHUT_RDWR)
    assert rig.is_idle()
    rig.writer.close()
    rig.near.close()
    rig.peer.close()


def refuse(*arguments: object) -> None:
    raise NoThread("can't start new thread")


class TestSend:
    @pytest.mark.parametrize("buffers", [[b"one\n"], [b"o", bytearray(b"n"), memoryview(b"e\n")]])
    def test_a_message(self, rig: Rig, buffers: list[bytes]) -> None:
        rig.writer.send(buffers)
        assert rig.peer.read() == "one"
        assert not rig.writer.is_busy

    def test_messages_are_never_mixed(self, rig: Rig) -> None:
        size = 200_000

        def send(letter: bytes) -> None:
            for _ in range(20):
                rig.writer.send([letter * size, b"\n"])

        senders = [in_thread(lambda c=letter: send(c)) for letter in (b"a", b"b", b"c")]  # type: ignore[misc]
        received = [rig.peer.read() for _ in range(60)]
        for sender in senders:
            sender.join(LONG)
        assert sorted(received) == sorted(c * size for c in "abc" * 20)

    def test_a_deadline_before_the_first_byte(self, rig: Rig) -> None:
        filled = fill(rig.writer)
        with pytest.raises(TimeoutError, match="does not read"):
            rig.writer.send([b"one\n"], Deadline(0.01))
        assert not rig.writer.is_busy
        read_exactly(rig.peer, filled)
        rig.writer.send([b"two\n"], Deadline(LONG))
        assert rig.peer.read() == "two"

    def test_a_deadline_in_the_middle(self, rig: Rig) -> None:
        with pytest.raises(TimeoutError):
            rig.writer.send([b"x" * BIG, b"\n"], Deadline(0.01))
        with pytest.raises(TimeoutError, match="in the way"):
            rig.writer.send([b"one\n"], Deadline(0.01))
        assert len(rig.peer.read()) == BIG
        rig.writer.send([b"two\n"], Deadline(1e9))
        assert rig.peer.read() == "two"

    def test_a_deadline_after_a_beginning_that_came_late(self, rig: Rig) -> None:
        is_waiting, is_over = threading.Event(), threading.Event()

        class OnDemand(Deadline):
            asked = 0

            def remaining(self) -> float:
                self.asked += 1
                if self.asked == 2:  # first by send(), then by the wait for the peer
                    is_waiting.set()
                return 0.0 if is_over.is_set() else 0.01

        errors: list[Exception] = []

        def send() -> None:
            try:
                rig.writer.send([b"x" * BIG, b"\n"], OnDemand(LONG))
            except Exception as error:
                errors.append(error)

        filled = fill(rig.writer)
        sender = in_thread(send)
        assert is_waiting.wait(LONG)
        read_exactly(rig.peer, filled)
        assert read_exactly(rig.peer, 1) == b"x", "the message is half written"
        is_over.set()
        sender.join(LONG)
        assert [type(error) for error in errors] == [TimeoutError]
        # Another thread writes the rest, and no message comes between.
        assert rig.peer.read() == "x" * (BIG - 1)
        rig.writer.send([b"two\n"], Deadline(LONG))
        assert rig.peer.read() == "two"


class TestTrySend:
    def test_a_message(self, rig: Rig) -> None:
        assert rig.writer.try_send([b"one\n"])
        assert rig.peer.read() == "one"

    def test_nothing_where_it_would_block(self, rig: Rig) -> None:
        filled = fill(rig.writer)
        assert not rig.writer.try_send([b"other\n"])
        read_exactly(rig.peer, filled)
        rig.writer.send([b"last\n"])
        assert rig.peer.read() == "last"

    def test_nothing_while_another_message_is_written(self, rig: Rig) -> None:
        assert rig.writer.try_send([b"x" * BIG, b"\n"])
        assert rig.writer.is_busy
        assert not rig.writer.try_send([b"one\n"])
        assert len(rig.peer.read()) == BIG
        rig.writer.send([b"two\n"])
        assert rig.peer.read() == "two"

    def test_another_thread_finishes_a_begun_message(self, rig: Rig) -> None:
        assert rig.writer.try_send([b"x" * BIG, b"\n", b"y\n"])
        assert len(rig.peer.read()) == BIG
        assert rig.peer.read() == "y"
        assert rig.is_idle()

    def test_no_thread_to_finish_it(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(threads, "spawn", refuse)
        assert rig.writer.try_send([b"x" * BIG])
        (failure,) = rig.failures
        assert "no thread was left" in str(failure)
        assert not rig.writer.is_busy


class TestBeginAndFinish:
    def test_all_at_once(self, rig: Rig) -> None:
        assert rig.writer.begin([b"one\n"]) == ()
        assert not rig.writer.is_busy
        assert rig.peer.read() == "one"

    def test_a_rest(self, rig: Rig) -> None:
        rest = rig.writer.begin([b"x" * BIG, b"\n", b"y\n"])
        assert rest
        assert sum(map(len, rest)) < BIG + 3
        assert rig.writer.begin([b"other\n"]) is None
        finisher = in_thread(lambda: rig.writer.finish(rest))
        assert len(rig.peer.read()) == BIG
        assert rig.peer.read() == "y"
        finisher.join(LONG)
        assert not rig.writer.is_busy

    def test_the_whole_message_is_the_rest(self, rig: Rig) -> None:
        filled = fill(rig.writer)
        message = [b"one\n"]
        assert rig.writer.begin(message) is message
        finisher = in_thread(lambda: rig.writer.finish(message))
        read_exactly(rig.peer, filled)
        assert rig.peer.read() == "one"
        finisher.join(LONG)


class TestTheEnd:
    def test_a_peer_that_is_gone(self, rig: Rig) -> None:
        rig.peer.close()
        with pytest.raises(ConnectionLost, match="writing to the connection failed"):
            rig.writer.send([b"x"])
        assert [type(failure) for failure in rig.failures] == [ConnectionLost]
        assert not rig.writer.is_busy

    def test_after_close(self, rig: Rig) -> None:
        rig.writer.close()
        rig.writer.close()
        for deadline in (None, Deadline(0)):
            with pytest.raises(ConnectionLost, match="closed"):
                rig.writer.send([b"x"], deadline)
        with pytest.raises(ConnectionLost, match="closed"):
            rig.writer.begin([b"x"])
        assert rig.writer.try_send([b"x"])

    def test_close_waits_for_the_message_under_way(self, rig: Rig) -> None:
        errors: list[Exception] = []

        def send() -> None:
            try:
                rig.writer.send([b"x" * BIG])
            except ConnectionLost as error:
                errors.append(error)

        sender = in_thread(send)
        assert eventually(lambda: rig.writer.is_busy)
        closer = in_thread(rig.writer.close)
        assert closer.is_alive()
        rig.near.shutdown(socket.SHUT_RDWR)
        closer.join(LONG)
        sender.join(LONG)
        assert (closer.is_alive(), len(errors)) == (False, 1)

    def test_a_forked_child_finishes_nothing(self, rig: Rig) -> None:
        assert rig.writer.begin([b"x" * BIG])
        rig.writer.after_fork_in_child()
        with pytest.raises(ConnectionLost):
            rig.writer.send([b"x"], Deadline(LONG))


class TestInALink:
    def test_reading_goes_on_while_a_large_answer_is_not_read(self) -> None:
        with linked() as (lines, peer):
            peer.send(f"big {BIG}")
            assert eventually(lambda: lines.link.writer.is_busy)
            peer.send("block a")
            assert lines.entered["block a"].wait(LONG)
            lines.release("a")
            assert len(peer.read()) == BIG
            assert peer.read() == "block a"

    def test_a_failure_ends_the_link(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with linked() as (lines, peer):
            peer.send("one")
            assert peer.read() == "one"
            monkeypatch.setattr(threads, "spawn", refuse)
            assert eventually(lambda: lines.link.try_send([b"x" * BIG]))
            assert lines.is_lost.wait(LONG)
            (cause,) = lines.lost_causes
            assert isinstance(cause, ConnectionLost)
            assert "no thread was left" in str(cause)

    def test_an_answer_after_the_end_is_dropped(self) -> None:
        with linked() as (lines, peer):
            peer.send("block a")
            assert lines.entered["block a"].wait(LONG)
            peer.close()
            assert lines.is_lost.wait(LONG)
            lines.release("a")
            assert lines.jobs[0].was_sent.wait(LONG)

    def test_close_wakes_a_writer(self) -> None:
        with linked() as (lines, _):
            failures: list[Exception] = []

            def write() -> None:
                try:
                    lines.link.send([b"x" * BIG])
                except ConnectionLost as error:
                    failures.append(error)

            writer = in_thread(write)
            assert eventually(lambda: lines.link.writer.is_busy)
            lines.link.close()
            writer.join(LONG)
            assert len(failures) == 1
            assert lines.is_lost.wait(LONG)
            assert lines.lost_causes == [None]


class Poller:
    """A poll object whose polls have given results."""

    def __init__(self, *results: list[Any]) -> None:
        self._results = list(results)

    def poll(self, timeout: int | None) -> list[Any]:
        return self._results.pop(0)


class TestIsReady:
    @pytest.mark.parametrize("timeout", [None, LONG])
    def test_a_poll_that_ends_before_the_deadline_is_repeated(self, timeout: float | None) -> None:
        poller: Any = Poller([], [(0, select.POLLIN)])
        assert is_ready(poller, Deadline(timeout))

    @pytest.mark.parametrize("ready", [True, False])
    def test_after_the_deadline_it_polls_once(self, ready: bool) -> None:
        poller: Any = Poller([(0, select.POLLIN)] if ready else [])
        assert is_ready(poller, Deadline(0.0)) is ready
