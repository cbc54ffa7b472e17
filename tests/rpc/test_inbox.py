"""The messages of a stream: order, ends, limits, and that no thread is left waiting."""

from __future__ import annotations

import sys
import threading
import time
import tracemalloc
from typing import Callable

import pytest

from nri_sync.deadline import Deadline
from nri_sync.rpc import inbox as inbox_module
from nri_sync.rpc.inbox import END, Holdings, Inbox, cost
from nri_sync.threads import Latch
from nri_sync.wire.ttrpc import MESSAGE_MAX
from tests.net.rig import LONG, eventually, in_thread

__all__: list[str] = []


def test_in_order_and_then_the_end_again_and_again() -> None:
    inbox = Inbox()
    assert inbox.put(b"a")
    assert inbox.put(b"b")
    inbox.end()
    assert [inbox.get() for _ in range(4)] == [b"a", b"b", END, END]


def test_get_waits() -> None:
    inbox = Inbox()
    taken: list[object] = []
    thread = in_thread(lambda: taken.append(inbox.get()))
    inbox.put(b"a")
    thread.join(LONG)
    assert taken == [b"a"]


@pytest.mark.parametrize("timeout", [0.0, 0.02])
def test_get_gives_up(timeout: float) -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        Inbox().get(Deadline(timeout))
    assert time.monotonic() - began >= timeout


def test_get_gives_up_on_other_threads() -> None:
    raised: list[Exception] = []

    def get() -> None:
        try:
            Inbox().get(Deadline(0.02))
        except TimeoutError as error:
            raised.append(error)

    in_thread(get).join(LONG)
    assert len(raised) == 1


def test_each_waiting_thread_gets_a_message_or_the_end() -> None:
    inbox = Inbox()
    taken: list[bytes] = []
    threads = [
        in_thread(lambda: taken.append(bytes(inbox.get(Deadline(LONG)) or b""))) for _ in range(4)
    ]
    for data in (b"a", b"b", b"c"):
        inbox.put(data)
    inbox.end()
    for thread in threads:
        thread.join(LONG)
    assert sorted(taken) == [b"", b"a", b"b", b"c"]


def test_a_message_that_comes_just_before_the_wait() -> None:
    inbox = Inbox()

    class Late(Latch):
        __slots__ = ()

        def wait(self, deadline: Deadline | None = None) -> bool:
            inbox.put(b"a")
            return super().wait(deadline)

    inbox._arrival = Late()
    assert inbox.get(Deadline(LONG)) == b"a"


def full_inbox() -> Inbox:
    inbox = Inbox(limit=10, stall=LONG)
    assert inbox.put(b"x" * 20)
    return inbox


def blocked_put(inbox: Inbox, data: bytes) -> tuple[threading.Thread, list[bool]]:
    results: list[bool] = []
    thread = in_thread(lambda: results.append(inbox.put(data)))
    assert eventually(lambda: inbox.waits_for_room)
    assert results == []
    return thread, results


def test_put_waits_for_the_consumer() -> None:
    inbox = full_inbox()
    thread, results = blocked_put(inbox, b"y")
    assert inbox.get() == b"x" * 20
    thread.join(LONG)
    assert results == [True]
    assert inbox.get() == b"y"


@pytest.mark.parametrize("end", [Inbox.end, Inbox.discard])
def test_the_end_frees_put(end: Callable[[Inbox], None]) -> None:
    inbox = full_inbox()
    thread, results = blocked_put(inbox, b"y")
    end(inbox)
    thread.join(LONG)
    assert results == [True]
    assert inbox.put(b"z" * 100)
    assert inbox.put(b"z" * 100)
    assert inbox.get() == (b"x" * 20 if end is Inbox.end else END)
    assert inbox.get() is END


def test_empty_messages_count_too() -> None:
    inbox = Inbox(limit=10 * cost(b""), stall=0.0)
    assert sum(inbox.put(b"") for _ in range(1000)) == 10


@pytest.mark.parametrize("size", [0, 1, 2, 100, 5000])
def test_the_bound_holds_in_memory(size: int) -> None:
    limit = 2 * 1024 * 1024
    inbox = Inbox(limit=limit, stall=0.0)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        while inbox.put(bytes(size)):
            pass
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert limit - cost(bytes(size)) < inbox.held <= limit
    # Small objects of one value are shared, and the queue grows ahead.
    assert after - before <= inbox.held + inbox.held // 8
    assert size < 2 or after - before >= inbox.held // 2
    assert cost(bytes(size)) >= sys.getsizeof(bytes(size)) + 8


def test_a_consumer_that_stalls_is_given_up() -> None:
    inbox = Inbox(limit=10, stall=0.01)
    assert inbox.put(b"x" * 20)
    assert not inbox.put(b"y")


def test_a_slow_consumer_is_not_given_up() -> None:
    inbox = Inbox(limit=2, stall=LONG)
    count = 2000
    taken: list[object] = []

    def take() -> None:
        while (data := inbox.get()) is not END:
            taken.append(data)

    thread = in_thread(take)
    for number in range(count):
        assert inbox.put(b"%d" % number)
    inbox.end()
    thread.join(LONG)
    assert taken == [b"%d" % number for number in range(count)]


def test_the_consumer_makes_room_just_before_put_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    # Taken between the look at the limit and the wait: put() must see it.
    inbox = full_inbox()
    made = Latch

    def take_first() -> object:
        latch = made()
        if inbox.held == cost(b"x" * 20):
            assert inbox.get() == b"x" * 20
        return latch

    monkeypatch.setattr(inbox_module, "Latch", take_first)
    assert inbox.put(b"y")
    assert inbox.get() == b"y"


def test_a_discarded_inbox_wakes_its_consumer() -> None:
    inbox = Inbox()
    taken: list[object] = []
    thread = in_thread(lambda: taken.append(inbox.get()))
    inbox.discard()
    thread.join(LONG)
    assert taken == [END]


def test_discarded_messages_are_dropped() -> None:
    inbox = Inbox()
    data = bytes(1000)
    references = sys.getrefcount(data)
    for _ in range(100):
        inbox.put(data)
    assert sys.getrefcount(data) >= references + 100
    inbox.discard()
    assert (inbox.held, inbox.drained) == (0, True)
    assert sys.getrefcount(data) == references
    assert inbox.get() is END


class TestHoldings:
    """The memory that all streams of a connection hold together."""

    @staticmethod
    def held(count: int, size: int, **options: float) -> tuple[Holdings, list[Inbox]]:
        """Holdings whose limit is one message of ``size`` in each of ``count`` streams."""
        inboxes = [Inbox() for _ in range(count)]
        limit = count * cost(bytes(size))
        holdings = Holdings(lambda: inboxes, limit=limit, **options)
        for inbox in inboxes:
            assert holdings.put(inbox, bytes(size))
        return holdings, inboxes

    def test_a_consumer_of_another_stream_makes_room(self) -> None:
        holdings, inboxes = self.held(3, 100, stall=LONG)
        results: list[bool] = []
        thread = in_thread(lambda: results.append(holdings.put(inboxes[0], b"x")))
        assert eventually(lambda: inboxes[2].waits_for_room)
        assert results == []
        assert inboxes[2].get() == bytes(100)
        thread.join(LONG)
        assert results == [True]

    def test_a_stream_that_ends_makes_room(self) -> None:
        holdings, inboxes = self.held(3, 100, stall=LONG)
        results: list[bool] = []
        thread = in_thread(lambda: results.append(holdings.put(inboxes[0], b"x")))
        assert eventually(lambda: inboxes[1].waits_for_room)
        inboxes[1].discard()
        thread.join(LONG)
        assert results == [True]

    def test_where_nothing_is_taken_there_is_no_room(self) -> None:
        holdings, inboxes = self.held(3, 100, stall=0.01)
        assert not holdings.put(inboxes[0], b"x")
        assert inboxes[1].get() == bytes(100)
        assert holdings.put(inboxes[0], b"x")

    def test_taken_just_before_the_wait(self, monkeypatch: pytest.MonkeyPatch) -> None:
        holdings, inboxes = self.held(2, 100, stall=LONG)
        made = Latch

        def take_first() -> object:
            latch = made()
            if inboxes[1].held:
                assert inboxes[1].get() == bytes(100)
            return latch

        monkeypatch.setattr(inbox_module, "Latch", take_first)
        assert holdings.put(inboxes[0], b"x")

    def test_streams_without_a_consumer_leave_room_for_a_message(self) -> None:
        largest = bytes(MESSAGE_MAX)
        waiting, consumed = [Inbox() for _ in range(8)], Inbox()
        limit = 4 * cost(largest)
        holdings = Holdings(lambda: [*waiting, consumed], limit=limit, stall=LONG)
        # A refusal comes at once, not after the stall.
        results = [holdings.put(inbox, largest, consumed=False) for inbox in waiting]
        assert results == [True] * 3 + [False] * 5
        for _ in range(3):
            assert holdings.put(consumed, largest)
            assert sum(inbox.held for inbox in [*waiting, consumed]) == limit
            assert consumed.get() == largest
        assert waiting[0].get() == largest
        assert holdings.put(waiting[3], largest, consumed=False)

    def test_one_message_always_fits(self) -> None:
        holdings = Holdings(list, limit=10, stall=0.0)
        assert holdings.put(Inbox(), bytes(1000))
