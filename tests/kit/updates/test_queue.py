"""The queue for updates: with a scripted stub where the order matters, and with a runtime."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import logging
import queue
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable

import pytest

import nri_sync
from nri_sync import Backoff, api, errors
from nri_sync.api import ContainerEviction, ContainerUpdate, nri_pb2
from nri_sync.codes import StatusCode
from nri_sync.errors import CallFailed
from nri_sync.kit import PendingUpdate, UpdateCounters, UpdateQueue
from nri_sync.runtime import Runtime
from tests.forked import WARNS, in_child
from tests.patience import say_request_timeout
from tests.plugin.harness import LONG, PluginWith, eventually
from tests.runtime.rig import POD, Host, host_options, on_thread

__all__: list[str] = []

SOON = Backoff(first=0.001, factor=1.0, most=0.001)


def update(container_id: str, shares: int = 1) -> ContainerUpdate:
    return api.Update(container_id).set_cpu(shares=shares).message


def described(updates: list[ContainerUpdate]) -> list[tuple[str, int]]:
    return [(item.container_id, item.linux.resources.cpu.shares.value) for item in updates]


def refusal(text: str = "no") -> CallFailed:
    """An error in the runtime's answer."""
    return CallFailed("/UpdateContainers", StatusCode.UNKNOWN, text)


def loss() -> CallFailed:
    """The error of a call that ends with its connection."""
    error = CallFailed("/UpdateContainers", StatusCode.UNAVAILABLE, "lost")
    error.__cause__ = errors.ConnectionLost("lost")
    return error


def assert_applied(*futures: PendingUpdate) -> None:
    for future in futures:
        future.result(LONG)
        assert future.exception() is None


def threads_of_queues() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.endswith("-updates")]


class Call:
    """A call of ``update_containers()`` that waits for the test to answer it."""

    def __init__(self, updates: list[ContainerUpdate], evictions: list[ContainerEviction]) -> None:
        self.updates = described(updates)
        self.evictions = evictions
        self._outcome: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def answer(self, *failed: str) -> None:
        self._outcome.put([update(container_id) for container_id in failed])

    def fail(self, error: BaseException) -> None:
        self._outcome.put(error)

    def result(self) -> Any:
        outcome = self._outcome.get(timeout=LONG)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


class Context:
    """The context of a request, which ends when the test ends it."""

    def __init__(self) -> None:
        self.active = True
        self._callbacks: list[Callable[[], object]] = []

    def is_active(self) -> bool:
        return self.active

    def add_callback(self, callback: Callable[[], object]) -> bool:
        if self.active:
            self._callbacks.append(callback)
        return self.active

    def end(self) -> None:
        self.active = False
        while self._callbacks:
            self._callbacks.pop()()


class Script:
    """Replaces a stub, and the runtime behind it."""

    name = "10-test"

    def __init__(self, *, synchronized: bool = True, **options: Any) -> None:
        self.failures: queue.SimpleQueue[errors.UpdateFailed] = queue.SimpleQueue()
        self.queue = UpdateQueue(
            **{"backoff": SOON, "attempts": 2, "on_failed": self.failures.put, **options}
        )
        self.interceptors = [self.queue]
        self.calls: queue.SimpleQueue[Call] = queue.SimpleQueue()
        self.made: list[Call] = []
        #: The number of requests, and of calls that began before these were answered.
        self.contexts: list[Context] = []
        self.overlaps: list[Call] = []
        self.queue.attach(self)  # type: ignore[arg-type]
        if synchronized:
            self.new_session()

    def update_containers(self, updates: Any, evict: Any, timeout: float) -> Any:
        assert timeout == float("inf")
        call = Call(updates, evict)
        if any(context.active for context in self.contexts):
            self.overlaps.append(call)
        self.made.append(call)
        self.calls.put(call)
        return call.result()

    def call(self, *updates: tuple[str, int]) -> Call:
        """Return the next call, which must be for these containers."""
        call = self.calls.get(timeout=LONG)
        assert call.updates == list(updates)
        return call

    def request(
        self,
        event: str,
        request: Any = None,
        handler: Callable[[], object] = lambda: None,
        context: Context | None = None,
    ) -> None:
        """A request of the runtime. It ends when its handler returns, unless it has a context."""
        own = context or Context()
        self.contexts.append(own)
        self.queue.serve(event, request, own, lambda _request, _context: handler())  # type: ignore[arg-type]
        if context is None:
            own.end()

    def new_session(self, *containers: str) -> None:
        self.request("Configure")
        self.synchronize(*containers)

    def synchronize(self, *containers: str, more: bool = False) -> None:
        listed = [nri_pb2.Container(id=container_id) for container_id in containers]
        self.request("Synchronize", nri_pb2.SynchronizeRequest(containers=listed, more=more))

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Fail if a call begins inside of this block."""
        context = Context()
        self.request("Event", context=context)
        yield
        context.end()

    def put(self, container_id: str, shares: int = 1, **options: Any) -> PendingUpdate:
        return self.queue.put(update(container_id, shares), **options)

    def failure(self, future: PendingUpdate) -> errors.UpdateFailed:
        """Return the failure, which must be reported in both ways."""
        error = future.exception(LONG)
        assert isinstance(error, errors.UpdateFailed)
        assert self.failures.get(timeout=LONG) is error
        return error


@pytest.fixture
def scripted() -> Iterator[Callable[..., Script]]:
    made: list[Script] = []

    def make(**options: Any) -> Script:
        made.append(Script(**options))
        return made[-1]

    yield make
    for script in made:
        script.queue.close(0)
        for call in script.made:
            call.answer()
        assert script.queue.counters.pending == 0
        assert not script.overlaps


Make = Callable[..., Script]


class TestSending:
    def test_an_update_is_applied(self, scripted: Make) -> None:
        script = scripted()
        future = script.put("a", 7)
        call = script.call(("a", 7))
        assert not future.done()
        call.answer()
        assert_applied(future)

    def test_all_kinds(self, scripted: Make) -> None:
        script = scripted()
        with script.held():
            futures = [
                script.queue.put(api.Update("a").set_cpu(shares=3)),
                script.queue.put(update("b", 4)),
                script.queue.put(api.eviction("c", "why")),
            ]
        call = script.call(("a", 3), ("b", 4))
        assert call.evictions == [api.eviction("c", "why")]
        call.answer()
        assert_applied(*futures)

    @pytest.mark.parametrize(
        ("item", "error"),
        [
            (ContainerUpdate(), ValueError),
            (ContainerEviction(), ValueError),
            (nri_pb2.Container(id="a"), TypeError),
            ([update("a")], TypeError),
            (None, TypeError),
        ],
    )
    def test_an_invalid_item_is_refused(self, item: Any, error: type[Exception]) -> None:
        with pytest.raises(error, match=r"put\(\) takes|needs a container_id"):
            UpdateQueue().put(item)

    def test_one_call_at_a_time(self, scripted: Make) -> None:
        script = scripted()
        first = script.put("a", 1)
        call = script.call(("a", 1))
        second = script.put("a", 2)
        other = script.put("b", 3)
        assert script.put("a", 4) is second
        assert second is not first
        assert script.calls.empty()
        call.answer()
        assert_applied(first)
        # b had no other reason to wait.
        call = script.call(("b", 3), ("a", 4))
        assert not second.done()
        call.answer()
        assert_applied(second, other)

    def test_batches(self, scripted: Make) -> None:
        script = scripted(synchronized=False, batch=2)
        for name in "abc":
            script.put(name)
        script.new_session(*"abc")
        script.call(("a", 1), ("b", 1)).answer()
        script.call(("c", 1)).answer()

    def test_a_later_change_of_the_message_has_no_effect(self, scripted: Make) -> None:
        script = scripted(synchronized=False)
        message = update("a", 1)
        script.queue.put(message)
        message.linux.resources.cpu.shares.value = 2
        script.new_session("a")
        script.call(("a", 1)).answer()

    def test_a_future_cannot_be_cancelled(self, scripted: Make) -> None:
        script = scripted()
        future = script.put("a")
        assert not future.cancel()
        assert not future.cancelled()
        with pytest.raises(concurrent.futures.TimeoutError):
            future.result(0.001)
        script.call(("a", 1)).answer()
        assert_applied(future)


class TestHandlers:
    def test_no_call_during_a_handler(self, scripted: Make) -> None:
        script = scripted()
        futures = []

        def handler() -> None:
            futures.append(script.put("a"))
            assert len(script.made) == 0

        context = Context()
        script.request("CreateContainer", handler=handler, context=context)
        # The handler has returned, but the request is not answered.
        assert script.queue.counters.calls == 0
        other = Context()
        script.request("ValidateContainerAdjustment", context=other)
        context.end()
        assert script.queue.counters.calls == 0
        other.end()
        script.call(("a", 1)).answer()
        assert_applied(futures[0])

    def test_a_handler_with_a_late_answer_does_not_delay_updates(self, scripted: Make) -> None:
        script = scripted()
        context = Context()
        entered, leave = threading.Event(), threading.Event()

        def handler() -> None:
            future = script.put("a")
            entered.set()
            leave.wait(LONG)
            # Now waiting is possible.
            with pytest.raises(concurrent.futures.TimeoutError):
                future.result(0.0)

        done = on_thread(lambda: script.request("Event", handler=handler, context=context))
        assert entered.wait(LONG)
        assert script.queue.counters.calls == 0
        context.end()
        call = script.call(("a", 1))
        leave.set()
        done()
        call.answer()

    def test_a_request_that_ends_before_the_queue_sees_it(self, scripted: Make) -> None:
        script = scripted()
        context = Context()
        context.end()
        script.request("Event", context=context)
        script.put("a")
        script.call(("a", 1)).answer()

    def test_a_handler_that_raises(self, scripted: Make) -> None:
        script = scripted()

        def handler() -> None:
            script.put("a")
            raise KeyError("a")

        context = Context()
        with pytest.raises(KeyError):
            script.request("Event", handler=handler, context=context)
        context.end()
        script.call(("a", 1)).answer()
        assert not script.queue.holds_up()

    @pytest.mark.parametrize("wait", ["result", "exception"])
    def test_waiting_in_a_handler_is_refused(self, scripted: Make, wait: str) -> None:
        script = scripted()
        caught = []

        def handler() -> None:
            future = script.put("a")
            with pytest.raises(errors.WouldDeadlock, match="add_done_callback") as error:
                getattr(future, wait)()
            caught.append(error)

        script.request("Event", handler=handler)
        assert len(caught) == 1
        script.call(("a", 1)).answer()

    def test_a_handler_may_read_the_result_of_a_finished_update(self, scripted: Make) -> None:
        script = scripted()
        future = script.put("a")
        script.call(("a", 1)).answer()
        assert_applied(future)
        script.request("Event", handler=lambda: assert_applied(future))


class TestFailures:
    def test_a_refusal_is_tried_again(self, scripted: Make) -> None:
        script = scripted(attempts=3)
        with script.held():
            future, other = script.put("a", 1), script.put("b", 2)
        script.call(("a", 1), ("b", 2)).answer("a")
        assert_applied(other)
        script.call(("a", 1)).answer("a", "somebody else")
        script.call(("a", 1)).answer()
        assert_applied(future)
        assert script.failures.empty()

    def test_retries_end_after_the_given_attempts(
        self, scripted: Make, caplog: pytest.LogCaptureFixture
    ) -> None:
        script = scripted(attempts=2)
        future = script.put("a", 1)
        script.call(("a", 1)).answer("a")
        script.call(("a", 1)).answer("a")
        error = script.failure(future)
        assert str(error) == "update of container a failed: the runtime refuses it"
        assert (error.reason, error.container_id, error.update) == ("refused", "a", update("a", 1))
        assert (error.eviction, error.__cause__) == (None, None)
        with pytest.raises(errors.UpdateFailed):
            future.result()
        eventually(lambda: str(error) in caplog.text)

    def test_others_go_on_while_one_waits_to_be_tried_again(self, scripted: Make) -> None:
        script = scripted(backoff=Backoff(first=LONG, most=LONG))
        first = script.put("a", 1)
        script.call(("a", 1)).answer("a")
        behind = script.put("a", 2)
        other = script.put("b", 3)
        script.call(("b", 3)).answer()
        assert_applied(other)
        assert not first.done()
        assert not behind.done()

    def test_the_update_after_a_refused_one_is_sent(self, scripted: Make) -> None:
        script = scripted(attempts=1)
        first = script.put("a", 1)
        call = script.call(("a", 1))
        second = script.put("a", 2)
        call.answer("a")
        assert script.failure(first).reason == "refused"
        script.call(("a", 2)).answer()
        assert_applied(second)

    def test_updates_of_a_failed_batch_are_sent_one_by_one(self, scripted: Make) -> None:
        script = scripted(attempts=2)
        with script.held():
            futures = {name: script.put(name) for name in "abc"}
        script.call(("a", 1), ("b", 1), ("c", 1)).fail(refusal("some failed"))
        script.call(("a", 1)).answer()
        script.call(("b", 1)).fail(refusal("no such cpu"))
        script.call(("c", 1)).answer()
        script.call(("b", 1)).fail(refusal("no such cpu"))
        assert_applied(futures["a"])
        assert_applied(futures["c"])
        error = script.failure(futures["b"])
        assert str(error).endswith(
            "the runtime refuses it: /UpdateContainers failed: UNKNOWN: no such cpu"
        )
        assert isinstance(error.__cause__, CallFailed)

    @pytest.mark.parametrize("error", [ValueError("a bug"), SystemExit(1)])
    def test_any_exception_of_the_call_leaves_the_queue_working(
        self, scripted: Make, error: BaseException
    ) -> None:
        script = scripted(attempts=1)
        future = script.put("a")
        script.call(("a", 1)).fail(error)
        assert script.failure(future).__cause__ is error
        script.put("b")
        script.call(("b", 1)).answer()

    def test_an_eviction_that_fails(self, scripted: Make) -> None:
        script = scripted(attempts=1)
        future = script.queue.put(api.eviction("a"))
        script.call().fail(refusal())
        error = script.failure(future)
        assert str(error).startswith("eviction of container a failed")
        assert (error.update, error.eviction) == (None, api.eviction("a"))

    def test_a_callback_that_raises(self, scripted: Make, caplog: pytest.LogCaptureFixture) -> None:
        def on_failed(error: errors.UpdateFailed) -> None:
            raise RuntimeError("in on_failed")

        script = scripted(attempts=1, on_failed=on_failed)
        script.put("a")
        script.call(("a", 1)).answer("a")
        script.put("b")
        script.call(("b", 1)).answer()
        assert "in on_failed" in caplog.text

    def test_the_queue_can_be_used_in_its_callbacks(self, scripted: Make) -> None:
        futures: queue.SimpleQueue[PendingUpdate] = queue.SimpleQueue()
        refused: queue.SimpleQueue[Exception] = queue.SimpleQueue()

        def on_failed(error: errors.UpdateFailed) -> None:
            future = script.queue.put(update("b"))
            for call in (
                future.result,
                lambda: script.queue.put(update("c"), timeout=None),
            ):
                try:
                    call()
                except errors.NRIError as problem:
                    refused.put(problem)
            futures.put(future)

        script = scripted(attempts=1, limit=1, on_failed=on_failed)
        script.put("a")
        script.call(("a", 1)).answer("a")
        script.call(("b", 1)).answer()
        assert_applied(futures.get(timeout=LONG))
        assert isinstance(refused.get(timeout=LONG), errors.WouldDeadlock)
        assert isinstance(refused.get(timeout=LONG), errors.QueueFull)


class TestSessions:
    def test_updates_wait_for_the_first_synchronization(self, scripted: Make) -> None:
        script = scripted(synchronized=False)
        future = script.put("a")
        script.request("Configure")
        script.synchronize("a", more=True)
        assert script.queue.counters.calls == 0
        script.synchronize()
        script.call(("a", 1)).answer()
        assert_applied(future)

    @pytest.mark.parametrize("error", [loss(), errors.NotConnected("no session")])
    def test_a_lost_update_is_sent_in_the_next_session(
        self, scripted: Make, error: Exception
    ) -> None:
        script = scripted(attempts=1)
        first = script.put("a", 1)
        call = script.call(("a", 1))
        second = script.put("a", 2)
        call.fail(error)
        other = script.put("b", 3)
        eventually(lambda: script.queue.counters.calling_for == 0.0)
        assert script.queue.counters.calls == 1
        script.new_session("a", "b")
        script.call(("a", 1), ("b", 3)).answer()
        script.call(("a", 2)).answer()
        assert_applied(first, second, other)
        assert script.failures.empty()

    def test_a_loss_that_shows_in_the_next_session(self, scripted: Make) -> None:
        script = scripted()
        future = script.put("a", 1)
        call = script.call(("a", 1))
        script.new_session("a")
        call.fail(loss())
        # No request is outstanding any more.
        script.call(("a", 1)).answer()
        assert_applied(future)

    def test_a_session_that_is_lost_during_its_synchronization(self, scripted: Make) -> None:
        script = scripted(synchronized=False)
        future = script.put("a", 1)
        script.new_session("a")  # as the queue sees it
        script.call(("a", 1)).fail(errors.NotConnected("lost"))
        eventually(lambda: script.queue.counters.calling_for == 0.0)
        script.new_session("a")
        script.call(("a", 1)).answer()
        assert_applied(future)

    def test_another_configure_changes_nothing(self, scripted: Make) -> None:
        script = scripted()
        script.request("Configure")
        script.put("a")
        script.call(("a", 1)).answer()


class TestRemoved:
    def test_containers_that_are_gone_after_a_reconnect(self, scripted: Make) -> None:
        script = scripted(synchronized=False)
        script.request("Configure")
        old = {name: script.put(name) for name in "abc"}
        script.request("Configure")
        new = script.put("d")
        script.synchronize("a", more=True)
        script.synchronize("b")
        error = script.failure(old["c"])
        assert str(error) == "update of container c failed: the container is gone"
        assert (error.reason, error.update) == ("removed", update("c"))
        script.call(("a", 1), ("b", 1), ("d", 1)).answer()
        assert_applied(old["a"], old["b"], new)

    def test_the_list_of_an_earlier_session_does_not_count(self, scripted: Make) -> None:
        script = scripted(synchronized=False)
        script.request("Configure")
        future = script.put("a")
        script.synchronize("a", more=True)
        script.new_session("b")
        assert script.failure(future).reason == "removed"

    def test_a_container_that_is_removed(self, scripted: Make) -> None:
        script = scripted(attempts=5, backoff=Backoff(first=1.0, most=1.0))
        sent = script.put("a", 1)
        call = script.call(("a", 1))
        waiting, other = script.put("a", 2), script.put("b", 3)
        container = nri_pb2.Container(id="a")
        removal = nri_pb2.RemoveContainerRequest(container=container)
        script.request("RemoveContainer", removal)
        call.answer("a")
        assert script.failure(waiting).reason == "removed"
        script.call(("b", 3)).answer()
        assert_applied(other)
        # The entry was in flight. The runtime refuses it, and it becomes due again.
        script.call(("a", 1)).answer()
        assert_applied(sent)

    def test_dropping_a_container_fails_its_refused_updates(self, scripted: Make) -> None:
        script = scripted(backoff=Backoff(first=LONG, most=LONG))
        first = script.put("a", 1)
        script.call(("a", 1)).answer("a")
        second = script.put("a", 2)
        eventually(lambda: script.queue.counters.calling_for == 0.0)
        assert script.queue.drop("a")
        assert not script.queue.drop("a")
        assert script.failure(first).update == update("a", 1)
        assert script.failure(second).update == update("a", 2)

    def test_an_update_after_the_removal_of_its_container(self, scripted: Make) -> None:
        script = scripted(synchronized=False)
        script.put("a", 1)
        script.queue.drop("a")
        future = script.put("a", 2)
        script.new_session("a")
        script.call(("a", 2)).answer()
        assert_applied(future)


class TestRoom:
    def test_full(self, scripted: Make) -> None:
        script = scripted(synchronized=False, limit=2)
        first = script.put("a")
        script.put("b")
        with pytest.raises(errors.QueueFull, match=r"2 containers .* no room for one of c"):
            script.put("c")
        with pytest.raises(errors.QueueFull):
            script.put("c", timeout=0.01)
        assert script.put("a", 5) is first

    @pytest.mark.parametrize("how", ["applied", "removed"])
    def test_put_waits_for_room(self, scripted: Make, how: str) -> None:
        script = scripted(synchronized=False, limit=1)
        script.put("a")
        blocked = [on_thread(lambda n=n: script.put(n, timeout=LONG)) for n in "bc"]  # type: ignore[misc]
        eventually(lambda: len(script.queue._room._waiters) == 2)
        if how == "removed":
            script.queue.drop("a")
        script.new_session("a", "b", "c")
        if how == "applied":
            script.call(("a", 1)).answer()
        seen = []
        for _ in range(2):
            call = script.calls.get(timeout=LONG)
            seen += call.updates
            call.answer()
        assert_applied(*(future() for future in blocked))
        assert sorted(seen) == [("b", 1), ("c", 1)]

    def test_not_in_a_handler(self, scripted: Make) -> None:
        script = scripted(synchronized=False, limit=1)
        script.put("a")
        caught = []

        def handler() -> None:
            with pytest.raises(errors.QueueFull) as error:
                script.put("b", timeout=None)
            caught.append(error)

        script.request("Event", handler=handler)
        assert len(caught) == 1

    def test_closing_ends_the_wait(self, scripted: Make) -> None:
        script = scripted(synchronized=False, limit=1)
        script.put("a")
        blocked = on_thread(lambda: script.put("b", timeout=None))
        eventually(lambda: len(script.queue._room._waiters) == 1)
        script.queue.close()
        with pytest.raises(errors.QueueClosed):
            blocked()


class TestClosing:
    def test_close_sends_the_waiting_updates(self, scripted: Make) -> None:
        script = scripted()
        first = script.put("a", 1)
        call = script.call(("a", 1))
        second = script.put("a", 2)
        closing = on_thread(lambda: script.queue.close(LONG))
        eventually(lambda: script.queue.closed)
        with pytest.raises(errors.QueueClosed, match="b came too late"):
            script.put("b")
        call.answer("a")
        script.call(("a", 1)).answer()
        script.call(("a", 2)).answer()
        assert closing() is True
        assert_applied(first, second)
        assert script.queue.close()

    def test_close_abandons_the_updates_that_exceed_its_timeout(self, scripted: Make) -> None:
        script = scripted()
        with script.held():
            flying = script.put("a", 1)
        call = script.call(("a", 1))
        behind, waiting = script.put("a", 2), script.put("b", 3)
        assert script.queue.close(0.01) is False
        told = [script.failure(future) for future in (flying, waiting, behind)]
        assert [error.reason for error in told] == ["closed"] * 3
        assert str(told[0]).endswith(
            "the queue was closed before the runtime answered: it may have been applied"
        )
        assert str(told[1]) == "update of container b failed: the queue was closed"
        # The answer comes too late. The thread ends in any case.
        call.answer()
        eventually(lambda: not threads_of_queues())
        assert script.queue.counters[:6] == (3, 0, 0, 0, 0, 3)

    def test_close_does_not_wait_for_a_session(self, scripted: Make) -> None:
        script = scripted(synchronized=False)
        future = script.put("a")
        assert script.queue.close(None) is False
        assert script.failure(future).reason == "closed"

    def test_close_does_not_wait_after_a_loss_of_the_session(self, scripted: Make) -> None:
        script = scripted()
        future = script.put("a")
        call = script.call(("a", 1))
        closing = on_thread(lambda: script.queue.close(None))
        eventually(lambda: script.queue.closed)
        call.fail(loss())
        assert closing() is False
        assert script.failure(future).reason == "closed"

    def test_in_a_handler(self, scripted: Make) -> None:
        script = scripted()
        closed = []

        def handler() -> None:
            script.put("a")
            closed.append(script.queue.close(None))

        script.request("Shutdown", handler=handler)
        assert closed == [False]

    def test_in_a_callback(self, scripted: Make) -> None:
        script = scripted()
        closed: queue.SimpleQueue[bool] = queue.SimpleQueue()
        future = script.put("a")
        future.add_done_callback(lambda _: closed.put(script.queue.close(None)))
        script.call(("a", 1)).answer()
        assert closed.get(timeout=LONG) is True

    def test_several_at_once(self, scripted: Make) -> None:
        script = scripted()
        script.put("a")
        call = script.call(("a", 1))
        closing = [on_thread(lambda: script.queue.close(LONG)) for _ in range(3)]
        call.answer()
        assert [close() for close in closing] == [True] * 3

    def test_close_before_the_queue_is_attached(self) -> None:
        script = SimpleNamespace(name="10-test", interceptors=[])
        with UpdateQueue() as updates:
            script.interceptors.append(updates)
            future = updates.put(update("a"))
            gone = updates.put(update("b"))
            updates.drop("b")
        assert "the queue was closed" in str(future.exception(0))
        assert "the container is gone" in str(gone.exception(0))
        assert updates.counters[:6] == (2, 0, 0, 0, 1, 1)
        updates.attach(script)  # type: ignore[arg-type]  # starts nothing
        assert not threads_of_queues()


@WARNS
def test_a_forked_child_has_an_empty_queue_that_works() -> None:
    script = Script()
    unsent = script.put("a")
    call = script.call(("a", 1))
    context = Context()
    script.request("Event", context=context)

    def child() -> None:
        assert script.queue.counters.pending == 0
        assert not script.queue.drop("a")
        script.new_session()
        future = script.put("b")
        script.call(("b", 1)).answer()
        assert future.exception(LONG) is None
        # The end of a request that the parent serves.
        context.end()
        later = script.put("c")
        script.call(("c", 1)).answer()
        assert later.exception(LONG) is None
        assert script.queue.close(LONG)

    in_child(child)
    call.answer()
    context.end()
    assert unsent.exception(LONG) is None
    assert script.queue.counters.applied == 1
    assert script.queue.close(LONG)


class TestAttaching:
    def test_the_stub_attaches_the_queue(self) -> None:
        updates = UpdateQueue()
        plugin = PluginWith(shutdown=lambda: None)
        options: Any = {"name": "test", "idx": "10", "socket_path": "/nowhere"}
        stub = nri_sync.Stub(plugin, interceptors=[updates], **options)
        updates.attach(stub)
        future = updates.put(update("a"))
        with pytest.raises(ValueError, match="is attached already"):
            nri_sync.Stub(plugin, interceptors=[updates], **options)
        stub.close(0.0)
        assert "the queue was closed" in str(future.exception(0))

    def test_a_queue_that_is_no_interceptor_of_the_stub_is_refused(self) -> None:
        updates = UpdateQueue()
        plugin = PluginWith(shutdown=lambda: None)
        stub = nri_sync.Stub(plugin, name="test", idx="10", socket_path="/nowhere")
        with pytest.raises(ValueError, match=r"pass it to the stub, interceptors=\[queue\]"):
            updates.attach(stub)

    def test_a_second_stub_is_refused(self, scripted: Make) -> None:
        script = scripted()
        script.queue.attach(script)  # type: ignore[arg-type]
        other = SimpleNamespace(interceptors=[script.queue], name="20-other")
        with pytest.raises(ValueError, match="is attached already"):
            script.queue.attach(other)  # type: ignore[arg-type]

    def test_without_a_thread(
        self, scripted: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def spawn(*_arguments: Any) -> None:
            raise RuntimeError("can't start new thread")

        script = scripted(synchronized=False)
        with monkeypatch.context() as patch:
            patch.setattr("nri_sync.kit.updates.queue.spawn", spawn)
            script.new_session()
            script.put("a")
        assert "10-test: no thread to send updates: can't start new thread" in caplog.text
        # The next request tries again.
        script.request("StopContainer")
        script.call(("a", 1)).answer()

    def test_closed_without_a_thread(self, scripted: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        closing: list[Callable[[], bool]] = []

        def spawn(*_arguments: Any) -> None:
            # close() waits for the end of the thread while it is being started.
            closing.append(on_thread(lambda: script.queue.close(None)))
            eventually(lambda: script.queue.closed)
            raise MemoryError

        script = scripted(synchronized=False)
        monkeypatch.setattr("nri_sync.kit.updates.queue.spawn", spawn)
        script.new_session()
        assert closing[0]() is True

    @pytest.mark.parametrize("option", ["limit", "attempts", "batch"])
    def test_options(self, option: str) -> None:
        with pytest.raises(ValueError, match=f"{option} must be at least 1"):
            UpdateQueue(**{option: 0})  # type: ignore[arg-type]


def test_counters(scripted: Make) -> None:
    script = scripted(attempts=1)
    assert script.queue.counters == UpdateCounters(0, 0, 0, 0, 0, 0, 0, 0, 0.0)
    with script.held():
        for name in "aab":
            script.put(name)
    call = script.call(("a", 1), ("b", 1))
    script.put("c")
    script.put("d")
    script.queue.drop("d")
    busy = script.queue.counters
    assert busy[:8] == (5, 1, 0, 0, 1, 0, 3, 1)
    assert busy.calling_for > 0
    call.answer("b")
    script.call(("c", 1)).answer()
    eventually(lambda: script.queue.counters.pending == 0)
    assert script.queue.counters == UpdateCounters(5, 1, 2, 1, 1, 0, 0, 2, 0.0)


class Node(Host):
    """A machine with containers and a runtime, which may fail, be slow, and restart."""

    def __init__(self, directory: Path, seed: int = 0, **options: Any) -> None:
        super().__init__()
        self.chance = random.Random(seed)
        self.containers = [nri_pb2.Container(id=f"c{n}", pod_sandbox_id="pod0") for n in range(6)]
        self.lock = threading.Lock()
        #: The applied updates in order, by container.
        self.applied: dict[str, list[int]] = defaultdict(list)
        self.outcomes: Counter[str] = Counter()
        self.refused: set[str] = set()
        self.trouble = 0.0
        self._options = host_options(self, directory, **options)
        self.socket_path: str = self._options["socket_path"]
        self._life = 0
        self.runtime = self._born()

    def _born(self) -> Runtime:
        """The process of a runtime: the next process does not complete the work of the one before."""
        update_containers = functools.partial(self._update, self._life)
        return Runtime(
            "containerd", "v2.4.0", **{**self._options, "update_containers": update_containers}
        )

    def _update(self, life: int, updates: Any, evictions: Any) -> Any:
        with self.lock:
            kind = self.chance.choice(["slow", "some", "error"])
            kind = kind if self.chance.random() < self.trouble else "fine"
        if kind == "slow":
            time.sleep(0.005)
        failed = []
        with self.lock:
            if life != self._life:
                return []
            self.outcomes[kind] += 1
            for item in updates:
                unlucky = kind != "fine" and self.chance.random() < 0.4
                if item.container_id in self.refused or unlucky:
                    failed.append(item)
                else:
                    shares = item.linux.resources.cpu.shares.value
                    self.applied[item.container_id].append(shares)
        if failed and kind == "error":
            raise RuntimeError("NRI update of some containers failed")
        return failed

    def restart(self) -> None:
        with self.lock:
            self._life += 1
        self.runtime.stop()
        self.runtime = self._born()
        self.runtime.start()

    def __enter__(self) -> Node:
        self.runtime.start()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.runtime.stop()


@pytest.fixture
def node(socket_dir: Path) -> Iterator[Node]:
    with Node(socket_dir) as node:
        yield node


class Plugin:
    """Puts updates in its handlers."""

    def __init__(self) -> None:
        self.updates = UpdateQueue(attempts=10_000, backoff=SOON, batch=3)
        self.futures: queue.SimpleQueue[PendingUpdate] = queue.SimpleQueue()
        self.entered = threading.Event()
        self.leave = threading.Event()

    def synchronize(self, pods: Any, containers: Any) -> None: ...

    def post_start_container(self, pod: Any, container: Any) -> None:
        self.futures.put(self.updates.put(update(container.id, 77)))
        self.entered.set()
        self.leave.wait(LONG)

    def remove_container(self, pod: Any, container: Any) -> None: ...


@contextlib.contextmanager
def running(node: Node, plugin: Plugin) -> Iterator[nri_sync.Stub]:
    """A stub of the plugin that stays connected."""
    stub = nri_sync.Stub(
        plugin,
        name="test",
        idx="10",
        socket_path=node.socket_path,
        interceptors=[plugin.updates],
    )
    plugin.updates.attach(stub)
    stop = threading.Event()
    done = on_thread(
        lambda: nri_sync.run_forever(stub, backoff=Backoff(first=0.005, most=0.02), stop_event=stop)
    )
    assert node.runtime.wait_for_plugins(bool, LONG)
    try:
        yield stub
    finally:
        plugin.leave.set()
        stop.set()
        stub.stop()
        done()
        plugin.updates.close(0)


class TestWithARuntime:
    def test_an_update_from_a_handler(self, node: Node) -> None:
        plugin = Plugin()
        with running(node, plugin):
            relayed = on_thread(lambda: node.runtime.post_start_container(POD, node.containers[0]))
            future = plugin.futures.get(timeout=LONG)
            assert plugin.entered.wait(LONG)
            assert plugin.updates.counters.calls == 0
            assert not future.done()
            plugin.leave.set()
            relayed()
            assert_applied(future)
        assert node.applied == {"c0": [77]}

    def test_a_handler_that_was_answered_for(
        self, socket_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        say_request_timeout(monkeypatch, 1.0)
        node = Node(socket_dir, request_timeout=LONG)
        plugin = Plugin()
        with node, running(node, plugin) as stub:
            node.runtime.post_start_container(POD, node.containers[0])
            assert stub.counters.late_replies == 1
            # The container still runs.
            assert_applied(plugin.futures.get(timeout=LONG))

    def test_removal(self, node: Node) -> None:
        plugin = Plugin()
        with running(node, plugin):
            on_thread(lambda: node.runtime.post_start_container(POD, node.containers[0]))
            assert plugin.entered.wait(LONG)
            # The runtime relays one event at a time. The queue sees the next request before it may send.
            removed = on_thread(lambda: node.runtime.remove_container(POD, node.containers[0]))
            other = plugin.updates.put(update("c1", 5))
            plugin.leave.set()
            removed()
            assert_applied(other)
            plugin.futures.get(timeout=LONG).exception(LONG)
        counters = plugin.updates.counters
        assert (counters.put, counters.applied + counters.removed, counters.pending) == (2, 2, 0)

    def test_updates_of_a_container_that_is_removed_meanwhile_fail(self, node: Node) -> None:
        plugin = Plugin()
        with running(node, plugin) as stub:
            node.runtime.stop()
            eventually(lambda: not stub.started)
            gone, there = (plugin.updates.put(update(name)) for name in ("c0", "c1"))
            del node.containers[0]
            node.runtime.start()
            assert_applied(there)
            error = gone.exception(LONG)
            assert isinstance(error, errors.UpdateFailed)
            assert error.reason == "removed"
        assert node.applied == {"c1": [1]}

    @pytest.mark.parametrize("seed", range(3))
    def test_nothing_is_lost_and_nothing_overtakes(
        self, socket_dir: Path, seed: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.CRITICAL)
        node = Node(socket_dir, seed)
        node.trouble = 0.5
        plugin = Plugin()
        plugin.leave.set()
        # Held for one put, so that its number gives the true order.
        locks = [threading.Lock() for _ in node.containers]
        last = [0] * len(locks)
        futures: list[set[PendingUpdate]] = [set() for _ in locks]

        def put(number: int) -> None:
            chance = random.Random(f"{seed} {number}")
            for _ in range(200):
                target = chance.randrange(len(locks))
                with locks[target]:
                    last[target] += 1
                    future = plugin.updates.put(update(f"c{target}", last[target]))
                    futures[target].add(future)
                if chance.random() < 0.3:
                    future.result(LONG)

        with node, running(node, plugin):
            putters = [on_thread(lambda n=n: put(n)) for n in range(3)]  # type: ignore[misc]
            for calls in range(10, 60, 10):
                eventually(lambda calls=calls: sum(node.outcomes.values()) >= calls)  # type: ignore[misc]
                with contextlib.suppress(errors.NRIError):
                    node.runtime.start_container(POD, node.containers[0])
                node.restart()
                assert node.runtime.wait_for_plugins(bool, LONG)
            for putter in putters:
                putter()
            node.trouble = 0.0
            assert plugin.updates.close(LONG)
        for target, numbers in enumerate(last):
            applied = node.applied[f"c{target}"]
            assert applied == sorted(applied)
            assert applied[-1] == numbers
            assert all(future.exception(0) is None for future in futures[target])
        counters = plugin.updates.counters
        assert counters.put == sum(last) == 600
        assert counters.applied == sum(map(len, futures))
        assert counters.merged == counters.put - counters.applied
        assert set(node.outcomes) == {"fine", "slow", "some", "error"}

    def test_an_update_fails_after_its_last_refusal(self, node: Node) -> None:
        node.refused = {"c1", "c3"}
        plugin = Plugin()
        failed: queue.SimpleQueue[errors.UpdateFailed] = queue.SimpleQueue()
        plugin.updates = UpdateQueue(attempts=3, backoff=SOON, on_failed=failed.put)
        with running(node, plugin):
            futures = [plugin.updates.put(update(f"c{n}", n)) for n in range(5)]
            outcomes = [future.exception(LONG) for future in futures]
        assert [n for n, outcome in enumerate(outcomes) if outcome is not None] == [1, 3]
        assert {failed.get(timeout=LONG).container_id for _ in range(2)} == {"c1", "c3"}
        assert node.applied == {"c0": [0], "c2": [2], "c4": [4]}
