"""The messages of a stream: order, ends, limits, and that no thread is left waiting."""

from __future__ import annotations

import sys
import threading
import time
import tracemalloc
from typing import Any, Callable

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
    inbox.put(b"a")
    inbox.put(b"b")
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


class OneStream:
    """A stream that holds a message of 20 bytes, of 10 that it may hold."""

    def __init__(self, limit: int = 10, stall: float = LONG) -> None:
        self.inbox = Inbox(limit=limit)
        self.holdings = Holdings(lambda: [self.inbox], stall=stall)
        assert self.put(b"x" * 20)

    def put(self, data: bytes) -> bool:
        full = self.holdings.put(self.inbox, data)
        assert full in (None, self.inbox)
        return full is None

    def blocked_put(self, data: bytes) -> tuple[threading.Thread, list[bool]]:
        results: list[bool] = []
        thread = in_thread(lambda: results.append(self.put(data)))
        assert eventually(lambda: self.inbox.waits_for_room)
        assert results == []
        return thread, results


def test_put_waits_for_the_consumer() -> None:
    stream = OneStream()
    thread, results = stream.blocked_put(b"y")
    assert stream.inbox.get() == b"x" * 20
    thread.join(LONG)
    assert results == [True]
    assert not stream.inbox.waits_for_room
    assert stream.inbox.get() == b"y"


@pytest.mark.parametrize("end", [Inbox.end, Inbox.discard])
def test_the_end_frees_put(end: Callable[[Inbox], None]) -> None:
    stream = OneStream()
    inbox = stream.inbox
    thread, results = stream.blocked_put(b"y")
    end(inbox)
    thread.join(LONG)
    assert results == [True]
    assert stream.put(b"z" * 100)
    assert stream.put(b"z" * 100)
    assert inbox.get() == (b"x" * 20 if end is Inbox.end else END)
    assert inbox.get() is END


def test_empty_messages_count_too() -> None:
    inbox = Inbox(limit=10 * cost(b""))
    holdings = Holdings(lambda: [inbox], stall=0.0)
    assert sum(holdings.put(inbox, b"") is None for _ in range(1000)) == 10


@pytest.mark.parametrize("size", [0, 1, 2, 100, 5000])
def test_the_bound_holds_in_memory(size: int) -> None:
    limit = 2 * 1024 * 1024
    inbox = Inbox(limit=limit)
    holdings = Holdings(lambda: [inbox], stall=0.0)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        while holdings.put(inbox, bytes(size)) is None:
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
    assert not OneStream(stall=0.01).put(b"y")


def test_a_slow_consumer_is_not_given_up() -> None:
    stream = OneStream(limit=2)
    inbox = stream.inbox
    assert inbox.get() == b"x" * 20
    count = 2000
    taken: list[object] = []

    def take() -> None:
        while (data := inbox.get()) is not END:
            taken.append(data)

    thread = in_thread(take)
    for number in range(count):
        assert stream.put(b"%d" % number)
    inbox.end()
    thread.join(LONG)
    assert taken == [b"%d" % number for number in range(count)]


def test_the_consumer_makes_room_just_before_put_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    # Taken between the look at the limit and the wait: put() must see it.
    stream = OneStream()
    made = Latch

    def take_first() -> object:
        latch = made()
        if stream.inbox.held == cost(b"x" * 20):
            assert stream.inbox.get() == b"x" * 20
        return latch

    monkeypatch.setattr(inbox_module, "Latch", take_first)
    assert stream.put(b"y")
    assert stream.inbox.get() == b"y"


class Clock:
    """The time, which passes only while the reading waits, and a consumer that takes a message each ``period``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.inbox: Inbox | None = None
        self.period = 0.0
        self.stopped_for = 0.0
        clock = self

        class Until(Deadline):
            __slots__ = ()

            def __init__(self, timeout: float) -> None:
                self.at = clock.now + timeout

            @property
            def expired(self) -> bool:
                return self.at is not None and clock.now >= self.at

        class Room(Latch):
            __slots__ = ()

            def wait(self, deadline: Deadline | None = None) -> bool:
                assert deadline is not None
                assert deadline.at is not None
                inbox, then = clock.inbox, clock.now + clock.period
                if inbox is not None and clock.stopped_for:
                    clock.now, clock.stopped_for = then + clock.stopped_for, 0.0
                    return inbox.get() is not END
                if inbox is None or then >= deadline.at:
                    clock.now = deadline.at
                    return False
                clock.now = then
                return inbox.get() is not END

        monkeypatch.setattr(inbox_module, "Deadline", Until)
        monkeypatch.setattr(inbox_module, "Latch", Room)
        monkeypatch.setattr(inbox_module, "time", self)

    def monotonic(self) -> float:
        return self.now

    def consume(self, inbox: Inbox, period: float) -> None:
        self.inbox, self.period = inbox, period


def consumed(
    monkeypatch: pytest.MonkeyPatch, size: int, period: float
) -> tuple[Clock, Inbox, Holdings, bytes]:
    """A stream with room for ten messages of ``size`` bytes. Its consumer takes one each ``period`` seconds."""
    clock = Clock(monkeypatch)
    data = bytes(size)
    inbox = Inbox(limit=10 * cost(data))
    clock.consume(inbox, period)
    return clock, inbox, Holdings(lambda: [inbox]), data


class TestTheTimeThatTheReadingWaits:
    def test_is_bounded_where_the_consumer_takes_little(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # A message of 4 KiB each 0.3 seconds. Each wait is short, but a request that comes behind waits for all.
        clock, inbox, holdings, data = consumed(monkeypatch, 4096, 0.3)
        assert [holdings.put(inbox, data) for _ in range(14)] == [None] * 13 + [inbox]
        assert clock.now == pytest.approx(1.0, abs=0.05)

    def test_is_granted_again_when_messages_have_come(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # A consumer of 640 KiB a second is never given up, however long the stream is.
        clock, inbox, holdings, data = consumed(monkeypatch, 64 * 1024, 0.1)
        for _ in range(1000):
            assert holdings.put(inbox, data) is None
        assert clock.now == pytest.approx(99.0)

    def test_counts_for_all_streams_of_the_connection(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The streams of ten consumers that take nothing hold the reading up once, not each for a second.
        clock = Clock(monkeypatch)
        inboxes = [Inbox(limit=1000) for _ in range(10)]
        holdings = Holdings(lambda: inboxes)
        for inbox in inboxes:
            assert holdings.put(inbox, bytes(900)) is None
        for inbox in inboxes:
            assert holdings.put(inbox, bytes(900)) is inbox
            inbox.discard()
        assert clock.now == pytest.approx(1.0)

    def test_is_a_second_even_if_the_process_was_stopped(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The consumer took a message, and the process was stopped before the reading went on.
        clock, inbox, holdings, data = consumed(monkeypatch, 64 * 1024, 0.1)
        clock.stopped_for = 600.0
        for _ in range(11):
            assert holdings.put(inbox, data) is None
        assert clock.now == pytest.approx(600.1)
        # 512 KiB make up for the time.
        while not inbox.drained:
            inbox.get()
        for _ in range(1000):
            assert holdings.put(inbox, data) is None


class TestAStreamThatIsTheOnlyCall:
    def held(self, **options: Any) -> tuple[Holdings, Inbox]:
        inbox = Inbox(limit=100)
        holdings = Holdings(lambda: [inbox], **options)
        assert holdings.put(inbox, bytes(20)) is None
        return holdings, inbox

    def test_has_ten_seconds_for_each_message(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = Clock(monkeypatch)
        holdings, inbox = self.held(alone=lambda: True)
        clock.consume(inbox, 9.0)
        assert [holdings.put(inbox, bytes(20)) for _ in range(20)] == [None] * 20
        assert clock.now == 180.0
        clock.consume(inbox, 10.0)
        assert holdings.put(inbox, bytes(20)) is inbox
        assert clock.now == 190.0

    def test_its_time_does_not_count_when_another_call_has_begun(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = Clock(monkeypatch)
        alone = True
        holdings, inbox = self.held(alone=lambda: alone)
        clock.consume(inbox, 9.0)
        assert holdings.put(inbox, bytes(20)) is None
        alone = False
        assert holdings.put(inbox, bytes(20)) is inbox
        assert clock.now == pytest.approx(10.0)

    def test_leaves_no_room_once_another_call_begins(self) -> None:
        alone = True
        holdings, inbox = self.held(alone=lambda: alone, stall=0.0, longest=LONG)
        results: list[Inbox | None] = []
        thread = in_thread(lambda: results.append(holdings.put(inbox, bytes(20))))
        assert eventually(lambda: inbox.waits_for_room)
        alone = False
        holdings.look_again()
        thread.join(LONG)
        assert results == [inbox]

    def test_another_call_begins_just_before_the_wait(self) -> None:
        looks: list[None] = []

        def alone() -> bool:
            looks.append(None)
            if len(looks) > 1:
                return False
            holdings.look_again()
            return True

        holdings, inbox = self.held(alone=alone, stall=0.0, longest=LONG)
        results: list[Inbox | None] = []
        in_thread(lambda: results.append(holdings.put(inbox, bytes(20)))).join(LONG / 2)
        assert results == [inbox]


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
    def held(count: int, size: int, **options: Any) -> tuple[Holdings, list[Inbox]]:
        """Holdings whose limit is one message of ``size`` in each of ``count`` streams."""
        inboxes = [Inbox() for _ in range(count)]
        limit = count * cost(bytes(size))
        holdings = Holdings(lambda: inboxes, limit=limit, **options)
        for inbox in inboxes:
            assert holdings.put(inbox, bytes(size)) is None
        return holdings, inboxes

    def test_a_consumer_of_another_stream_makes_room(self) -> None:
        holdings, inboxes = self.held(3, 100, stall=LONG)
        results: list[Inbox | None] = []
        thread = in_thread(lambda: results.append(holdings.put(inboxes[0], b"x")))
        assert eventually(lambda: inboxes[2].waits_for_room)
        assert results == []
        assert inboxes[2].get() == bytes(100)
        thread.join(LONG)
        assert results == [None]

    def test_a_stream_that_ends_makes_room(self) -> None:
        holdings, inboxes = self.held(3, 100, stall=LONG)
        results: list[Inbox | None] = []
        thread = in_thread(lambda: results.append(holdings.put(inboxes[0], b"x")))
        assert eventually(lambda: inboxes[1].waits_for_room)
        inboxes[1].discard()
        thread.join(LONG)
        assert results == [None]

    def test_where_nothing_is_taken_the_largest_leaves_no_room(self) -> None:
        inboxes = [Inbox() for _ in range(3)]
        holdings = Holdings(lambda: inboxes, limit=600, stall=0.0)
        for inbox, size in zip(inboxes, (100, 200, 50)):
            assert holdings.put(inbox, bytes(size)) is None
        # The message is of another stream, whose consumer may take all that comes.
        largest = inboxes[1]
        assert holdings.put(inboxes[2], bytes(50)) is largest
        largest.discard()
        assert holdings.put(inboxes[2], bytes(50)) is None

    def test_the_end_of_the_stream_ends_the_wait_for_others(self) -> None:
        holdings, inboxes = self.held(3, 100, stall=LONG)
        results: list[Inbox | None] = []
        thread = in_thread(lambda: results.append(holdings.put(inboxes[0], bytes(300))))
        assert eventually(lambda: inboxes[2].waits_for_room)
        inboxes[0].end()
        thread.join(LONG)
        assert results == [None]
        assert inboxes[0].held == cost(bytes(100))

    def test_taken_just_before_the_wait(self, monkeypatch: pytest.MonkeyPatch) -> None:
        holdings, inboxes = self.held(2, 100, stall=LONG)
        made = Latch

        def take_first() -> object:
            latch = made()
            if inboxes[1].held:
                assert inboxes[1].get() == bytes(100)
            return latch

        monkeypatch.setattr(inbox_module, "Latch", take_first)
        assert holdings.put(inboxes[0], b"x") is None

    def test_streams_without_a_consumer_leave_room_for_a_message(self) -> None:
        largest = bytes(MESSAGE_MAX)
        waiting, consumed = [Inbox() for _ in range(8)], Inbox()
        limit = 4 * cost(largest)
        holdings = Holdings(lambda: [*waiting, consumed], limit=limit, stall=LONG)
        # A refusal comes at once, not after the stall.
        results = [holdings.put(inbox, largest, consumed=False) for inbox in waiting]
        assert results == [None] * 3 + waiting[3:]
        for _ in range(3):
            assert holdings.put(consumed, largest) is None
            assert sum(inbox.held for inbox in [*waiting, consumed]) == limit
            assert consumed.get() == largest
        assert waiting[0].get() == largest
        assert holdings.put(waiting[3], largest, consumed=False) is None

    def test_a_read_may_block_where_a_stream_holds_much(self) -> None:
        inboxes = [Inbox() for _ in range(2)]
        holdings = Holdings(lambda: inboxes)
        data = bytes(MESSAGE_MAX)
        for _ in range(2):
            assert holdings.put(inboxes[0], data) is None
            assert not holdings.may_block()
        assert holdings.put(inboxes[0], data) is None
        assert holdings.may_block()
        assert inboxes[0].get() == data
        assert not holdings.may_block()

    def test_one_message_always_fits(self) -> None:
        holdings = Holdings(list, limit=10, stall=0.0)
        assert holdings.put(Inbox(), bytes(1000)) is None
