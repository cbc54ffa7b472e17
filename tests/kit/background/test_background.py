"""Work that outlives a request."""

from __future__ import annotations

import concurrent.futures
import contextvars
import gc
import logging
import queue
import random
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable

import pytest

import nri_sync
from nri_sync import errors
from nri_sync.kit import Background, BackgroundCounters, Task
from nri_sync.runtime import Runtime
from tests.plugin.harness import LONG, eventually
from tests.runtime.rig import Host, host_options, on_thread

__all__: list[str] = []

Make = Callable[..., Background]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Background] = []

    def make(**options: Any) -> Background:
        made.append(Background(**options))
        return made[-1]

    yield make
    for background in made:
        background.close(0)
        eventually(lambda background=background: not background.counters.threads)  # type: ignore[misc]


class Gate:
    """A function that reports each call, and returns when the test lets it."""

    def __init__(self) -> None:
        self.entered: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self._leave: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self.most = self._inside = 0

    def __call__(self, *args: Any) -> tuple[Any, ...]:
        with self._lock:
            self._inside += 1
            self.most = max(self.most, self._inside)
        self.entered.put(args)
        error = self._leave.get(timeout=LONG)
        with self._lock:
            self._inside -= 1
        if error is not None:
            raise error
        return args

    def wait(self) -> tuple[Any, ...]:
        """Wait for a call; returns its arguments."""
        return self.entered.get(timeout=LONG)

    def open(self, error: BaseException | None = None) -> None:
        """Let one call return."""
        self._leave.put(error)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    for _ in range(20):
        gate.open()


class TestSubmitting:
    def test_submit_returns_at_once(self, make: Make, gate: Gate) -> None:
        background = make()
        future = background.submit(gate, 1, 2)
        assert gate.wait() == (1, 2)
        assert not future.done()
        gate.open()
        assert future.result(LONG) == (1, 2)

    def test_names_of_arguments_are_free(self, make: Make) -> None:
        background = make()
        future: Future[Any] = background.submit(dict, self=1, function=2, timeout=3)
        assert future.result(LONG) == {"self": 1, "function": 2, "timeout": 3}

    def test_threads(self, make: Make) -> None:
        background = make(name="sweeper")
        thread = background.submit(threading.current_thread).result(LONG)
        assert (thread.name, thread.daemon) == ("sweeper-1", True)
        # The thread is free for the next call.
        eventually(lambda: not background.counters.running)
        assert background.submit(threading.current_thread).result(LONG) is thread

    def test_as_many_threads_as_needed(self, make: Make, gate: Gate) -> None:
        background = make(threads=2)
        futures = [background.submit(gate, number) for number in range(4)]
        assert {gate.wait(), gate.wait()} == {(0,), (1,)}
        assert background.counters == BackgroundCounters(0, 0, 0, 2, 2, 2)
        gate.open()
        assert gate.wait() == (2,)
        for _ in range(3):
            gate.open()
        assert [future.result(LONG) for future in futures] == [(0,), (1,), (2,), (3,)]
        assert gate.most == 2
        eventually(lambda: background.counters == BackgroundCounters(4, 0, 0, 0, 0, 2))

    def test_a_limit(self, make: Make, gate: Gate) -> None:
        background = make(threads=1, limit=2)
        background.submit(gate)
        gate.wait()
        for _ in range(2):
            background.submit(gate)
        with pytest.raises(errors.QueueFull, match=r"background: 2 functions wait .* for dict"):
            background.submit(dict)
        gate.open()
        gate.wait()
        background.submit(gate)

    def test_a_call_that_has_not_begun_can_be_cancelled(self, make: Make, gate: Gate) -> None:
        background = make(threads=1)
        first, second, third = (background.submit(gate, number) for number in range(3))
        gate.wait()
        assert (first.cancel(), second.cancel()) == (False, True)
        gate.open()
        assert gate.wait() == (2,)
        gate.open()
        assert third.result(LONG) == (2,)
        assert (background.counters.done, background.counters.cancelled) == (2, 1)

    def test_without_threads(self, make: Make, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
        def spawn(*_arguments: Any) -> None:
            raise RuntimeError("can't start new thread")

        background = make()
        with monkeypatch.context() as patch:
            patch.setattr("nri_sync.kit.background.pool.spawn", spawn)
            with pytest.raises(RuntimeError, match="new thread"):
                background.submit(gate)
            with pytest.raises(RuntimeError, match="new thread"):
                background.every(0.001, gate)
        assert background.counters == BackgroundCounters(0, 0, 0, 0, 0, 0)
        background.submit(gate, 1)
        assert gate.wait() == (1,)
        with monkeypatch.context() as patch:
            patch.setattr("nri_sync.kit.background.pool.spawn", spawn)
            # A thread will take it.
            future = background.submit(gate, 2)
        gate.open()
        assert gate.wait() == (2,)
        gate.open()
        assert future.result(LONG) == (2,)

    @pytest.mark.parametrize("option", ["threads", "limit"])
    def test_options(self, option: str) -> None:
        with pytest.raises(ValueError, match=f"{option} must be at least 1"):
            Background(**{option: 0})  # type: ignore[arg-type]


class TestErrors:
    @pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), KeyboardInterrupt()])
    def test_an_error_is_reported_and_the_thread_continues(
        self, make: Make, error: BaseException, caplog: pytest.LogCaptureFixture
    ) -> None:
        told: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def fail() -> None:
            raise error

        background = make(threads=1, on_error=lambda *args: told.put(args))
        future = background.submit(fail)
        assert future.exception(LONG) is error
        assert told.get(timeout=LONG) == (fail, error)
        assert background.submit(len, "ab").result(LONG) == 2
        assert background.counters[:2] == (2, 1)
        (record,) = caplog.records
        assert record.levelno == logging.ERROR
        assert record.getMessage().endswith("fail failed")
        assert record.exc_info is not None
        assert record.exc_info[1] is error

    def test_a_callback_that_raises(self, make: Make, caplog: pytest.LogCaptureFixture) -> None:
        def on_error(function: object, error: object) -> None:
            raise LookupError("in on_error")

        background = make(threads=1, on_error=on_error)
        background.submit(int, "x")
        assert background.submit(len, "ab").result(LONG) == 2
        assert "in on_error" in caplog.text

    @pytest.mark.parametrize("error", [LookupError("in a callback"), SystemExit("in a callback")])
    def test_a_callback_of_a_future_that_raises(
        self, make: Make, gate: Gate, error: BaseException, caplog: pytest.LogCaptureFixture
    ) -> None:
        def callback(_: object) -> None:
            raise error

        background = make(threads=1)
        future = background.submit(gate)
        future.add_done_callback(callback)
        gate.open()
        assert background.submit(len, "ab").result(LONG) == 2
        assert "in a callback" in caplog.text


class TestContext:
    def test_context_variables_follow(self, make: Make) -> None:
        variable = contextvars.ContextVar("variable", default="none")
        background = make(threads=1)

        def look() -> str:
            found = variable.get()
            variable.set("left behind")
            return found

        def submit(value: str) -> Future[str]:
            variable.set(value)
            return background.submit(look)

        context = contextvars.copy_context()
        assert context.run(submit, "one").result(LONG) == "one"
        assert context.run(background.submit, look).result(LONG) == "one"
        assert background.submit(look).result(LONG) == "none"

    def test_tasks(self, make: Make) -> None:
        variable = contextvars.ContextVar("variable", default="none")
        seen: queue.SimpleQueue[str] = queue.SimpleQueue()

        def look() -> None:
            seen.put(variable.get())
            variable.set("left behind")

        background = make()
        latest = background.latest(look)
        context = contextvars.copy_context()
        context.run(variable.set, "a request")
        context.run(latest)
        assert seen.get(timeout=LONG) == "a request"
        task = context.run(background.every, 0.001, look)
        assert [seen.get(timeout=LONG) for _ in range(3)] == ["a request"] * 3
        task.stop()

    def test_error_reports_have_the_context_variables(self, make: Make) -> None:
        variable = contextvars.ContextVar("variable", default="none")
        seen: queue.SimpleQueue[str] = queue.SimpleQueue()
        background = make(on_error=lambda *_: seen.put(variable.get()))
        context = contextvars.copy_context()
        context.run(variable.set, "a request")
        context.run(background.submit, int, "x")
        assert seen.get(timeout=LONG) == "a request"


class TestLatest:
    def test_one_at_a_time_with_the_newest_arguments(self, make: Make, gate: Gate) -> None:
        task = make().latest(gate)
        task(1)
        assert gate.wait() == (1,)
        for number in (2, 3, 4):
            task(number)
        gate.open()
        assert gate.wait() == (4,)
        gate.open()
        task(5)
        assert gate.wait() == (5,)
        gate.open()
        assert gate.most == 1
        assert gate.entered.empty()

    def test_a_call_that_waits_for_a_thread_is_replaced(self, make: Make, gate: Gate) -> None:
        background = make(threads=1, limit=1)
        background.submit(gate, "busy")
        assert gate.wait() == ("busy",)
        background.submit(gate, "fills the queue")
        task = background.latest(gate)
        for number in range(5):
            task(number)  # tasks take no room
        for expected in ("fills the queue", 4):
            gate.open()
            assert gate.wait() == (expected,)
        assert background.counters.queued == 0

    def test_errors_are_reported(self, make: Make, gate: Gate) -> None:
        told: queue.SimpleQueue[Any] = queue.SimpleQueue()
        task = make(on_error=lambda *args: told.put(args)).latest(gate)
        error = ValueError("no")
        task(1)
        gate.open(error)
        assert told.get(timeout=LONG) == (gate, error)
        task(2)
        gate.open()
        assert [gate.wait(), gate.wait()] == [(1,), (2,)]

    def test_stopping(self, make: Make, gate: Gate) -> None:
        background = make()
        task = background.latest(gate)
        task(1)
        gate.wait()
        task(2)
        task.stop()
        task.stop()
        gate.open()
        task(3)
        eventually(lambda: not background.counters.running)
        assert background.counters[:4] == (1, 0, 0, 0)

    def test_stopping_a_task_drops_its_waiting_call(self, make: Make, gate: Gate) -> None:
        background = make(threads=1)
        background.submit(gate, "busy")
        gate.wait()
        task = background.latest(gate)
        task(1)
        task.stop()
        future = background.submit(gate, "next")
        gate.open()
        assert gate.wait() == ("next",)
        gate.open()
        future.result(LONG)

    def test_arguments_are_released_after_the_run(self, make: Make) -> None:
        class Large:
            pass

        ran = threading.Event()
        background = make()
        task = background.latest(lambda _: ran.set())
        large = Large()
        gone = weakref.ref(large)
        task(large)
        del large
        assert ran.wait(LONG)

        def collected() -> bool:
            gc.collect()
            return gone() is None

        eventually(collected)

    @pytest.mark.parametrize("function", [None, 5])
    def test_not_a_function(self, function: Any) -> None:
        with pytest.raises(TypeError, match=r"latest\(\) takes an ordinary function"):
            Background().latest(function)

    def test_not_a_coroutine(self) -> None:
        async def handler() -> None: ...

        with pytest.raises(TypeError, match="takes an ordinary function"):
            Background().latest(handler)

    def test_as_a_method(self, make: Make) -> None:
        background = make()
        seen: queue.SimpleQueue[Any] = queue.SimpleQueue()

        class Plugin:
            @background.latest
            def synchronize(self, pods: Any, containers: Any) -> None:
                """Reconcile."""
                seen.put((self, pods, containers))

        one, two = Plugin(), Plugin()
        assert isinstance(Plugin.synchronize, Task)
        assert isinstance(one.synchronize, Task)
        assert one.synchronize is one.synchronize is not two.synchronize
        assert one.synchronize.__doc__ == "Reconcile."
        assert "synchronize" in repr(one.synchronize)
        one.synchronize("pods", "containers")
        assert seen.get(timeout=LONG) == (one, "pods", "containers")
        two.synchronize("other", containers=1)
        assert seen.get(timeout=LONG) == (two, "other", 1)
        # The stub finds it as a handler.
        nri_sync.Stub(one, name="test", idx="10", socket_path="/nowhere")

    def test_several_threads_get_the_same_task(self, make: Make) -> None:
        background = make()

        class Plugin:
            @background.latest
            def reconcile(self) -> None: ...

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            for _ in range(50):
                plugin = Plugin()
                barrier = threading.Barrier(4)

                def get(plugin: Plugin = plugin, barrier: threading.Barrier = barrier) -> Task[[]]:
                    barrier.wait(LONG)
                    return plugin.reconcile

                results = [on_thread(get) for _ in range(4)]
                assert {result() for result in results} == {plugin.reconcile}
        finally:
            sys.setswitchinterval(interval)

    def test_a_handler_of_the_wrong_shape_is_found(self, make: Make) -> None:
        background = make()

        class Plugin:
            @background.latest
            def synchronize(self, pods: Any) -> None: ...

        with pytest.raises(errors.PluginError, match="cannot be called as synchronize"):
            nri_sync.Stub(Plugin(), name="test", idx="10", socket_path="/nowhere")

    def test_synchronize_is_acknowledged_at_once(
        self, make: Make, gate: Gate, socket_dir: Path
    ) -> None:
        background = make()

        class Plugin:
            @background.latest
            def synchronize(self, pods: Any, containers: Any) -> None:
                gate([container.id for container in containers])

        runtime = Runtime(
            "containerd", "v2.4.0", **host_options(Host(), socket_dir, request_timeout=LONG)
        )
        path = str(socket_dir / "nri.sock")
        stub = nri_sync.Stub(Plugin(), name="test", idx="10", socket_path=path)
        with runtime, stub:
            # The stub receives events while the reconciliation runs.
            assert runtime.wait_for_plugins(lambda plugins: plugins == ("10-test",), LONG)
            assert gate.wait() == (["ctr0"],)
            assert stub.counters.late_replies == 0
            stub.stop()
            # Another session: its reconciliation waits for the running one.
            stub.start()
            assert runtime.wait_for_plugins(bool, LONG)
            gate.open()
            assert gate.wait() == (["ctr0"],)
            gate.open()
        assert background.close(LONG)


class TestEvery:
    def test_a_periodic_task_runs_repeatedly(self, make: Make, gate: Gate) -> None:
        task = make().every(0.001, gate)
        for _ in range(3):
            assert gate.wait() == ()
            gate.open()
        task.stop()
        assert gate.most == 1

    def test_a_call_of_a_periodic_task_runs_it_now(self, make: Make, gate: Gate) -> None:
        background = make()
        task = background.every(1000.0, gate)
        assert gate.entered.empty()
        task()
        assert gate.wait() == ()
        # It runs. Any number of further calls gives one more run.
        task()
        task()
        gate.open()
        assert gate.wait() == ()
        gate.open()
        eventually(lambda: not background.counters.running)
        assert gate.entered.empty()
        # One run is due, in 1,000 s.
        assert len(background.due) == 1

    def test_a_requested_run_replaces_the_due_run(self, make: Make, gate: Gate) -> None:
        background = make(threads=1)
        background.submit(gate, "busy")
        gate.wait()
        task = background.every(0.001, gate)
        task()
        passed = time.monotonic() + 0.001
        eventually(lambda: time.monotonic() > passed)
        gate.open()
        gate.wait()
        task.stop()
        gate.open()
        eventually(lambda: not background.counters.running)
        assert background.counters[:4] == (2, 0, 0, 0)

    def test_an_error_does_not_end_a_periodic_task(
        self, make: Make, gate: Gate, caplog: pytest.LogCaptureFixture
    ) -> None:
        task = make().every(0.001, gate)
        gate.wait()
        gate.open(ValueError("not now"))
        gate.wait()
        task.stop()
        assert "not now" in caplog.text

    def test_a_periodic_task_is_stopped_during_its_run(self, make: Make, gate: Gate) -> None:
        background = make()
        task = background.every(0.001, gate)
        gate.wait()
        task.stop()
        gate.open()
        eventually(lambda: not background.counters.running)
        assert background.due == []

    def test_a_due_periodic_task_is_stopped(self, make: Make, gate: Gate) -> None:
        background = make(threads=1)
        background.submit(gate, "busy")
        gate.wait()
        task = background.every(0.001, gate)
        task.stop()
        background.submit(gate, "next")
        gate.open()
        assert gate.wait() == ("next",)
        gate.open()
        eventually(lambda: not background.due)
        assert background.counters.queued == 0

    def test_a_due_time_is_watched_while_other_calls_run(self, make: Make, gate: Gate) -> None:
        background = make(threads=3)
        ran = threading.Event()
        for number in range(2):
            background.submit(gate, number)
        gate.wait(), gate.wait()
        task = background.every(0.001, ran.set)
        assert ran.wait(LONG)
        task.stop()

    def test_a_thread_that_was_watching_is_replaced(self, make: Make, gate: Gate) -> None:
        background = make(threads=2)
        ran = threading.Event()
        # One thread waits for both due times, and is busy with the first.
        first, second = background.every(0.05, gate), background.every(0.06, ran.set)
        gate.wait()
        assert ran.wait(LONG)
        first.stop()
        second.stop()

    def test_a_run_that_becomes_due_during_one_by_request(
        self, make: Make, gate: Gate, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chances = iter([0.9, 0.0])  # a pause of 100 s, then one of 1,000 s
        monkeypatch.setattr(random, "random", lambda: next(chances))
        passed = 0.0
        clock = SimpleNamespace(monotonic=lambda: time.monotonic() + passed)
        monkeypatch.setattr("nri_sync.kit.background.pool.time", clock)
        background = make()
        task = background.every(1000.0, gate, jitter=1.0)
        task()
        gate.wait()
        passed = 200.0
        background.submit(len, "")  # makes another thread look at the due time
        eventually(lambda: background.due == [])
        gate.open()
        eventually(lambda: not background.counters.running)
        assert gate.entered.empty()
        assert len(background.due) == 1

    def test_a_submitted_call_does_not_end_the_timing_of_tasks(
        self, make: Make, gate: Gate
    ) -> None:
        background = make(threads=2)
        ran = threading.Event()
        task = background.every(0.05, ran.set)
        # The waiting thread takes this.
        background.submit(gate)
        gate.wait()
        assert ran.wait(LONG)
        task.stop()

    def test_several(self, make: Make) -> None:
        background = make(threads=1)
        seen: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in range(5):
            background.every(0.001 * (number + 1), lambda number=number: seen.put(number))  # type: ignore[misc]
        left = {0, 1, 2, 3, 4}
        while left:
            left.discard(seen.get(timeout=LONG))
        assert background.close(LONG)

    @pytest.mark.parametrize(("chance", "seconds"), [(0.0, 100.0), (0.5, 90.0), (1.0, 80.0)])
    def test_jitter(
        self, make: Make, monkeypatch: pytest.MonkeyPatch, chance: float, seconds: float
    ) -> None:
        monkeypatch.setattr(random, "random", lambda: chance)
        background = make()
        now = time.monotonic()
        background.every(100.0, dict, jitter=0.2)
        (at,) = background.due
        assert seconds <= at - now < seconds + LONG / 2

    @pytest.mark.parametrize("options", [(0, 0.1), (-1, 0.1), (float("nan"), 0), (1, -0.1), (1, 2)])
    def test_an_invalid_interval_or_jitter_is_refused(self, options: tuple[float, float]) -> None:
        with pytest.raises(ValueError, match="cannot be scheduled"):
            Background().every(options[0], dict, jitter=options[1])


class TestClosing:
    def test_close_runs_all_submitted_calls_and_refuses_others(
        self, make: Make, gate: Gate
    ) -> None:
        background = make(threads=1)
        futures = [background.submit(gate, number) for number in range(3)]
        latest = background.latest(gate)
        latest("task")
        gate.wait()
        periodic = background.every(0.001, gate)
        closing = on_thread(lambda: background.close(LONG))
        eventually(lambda: background.closed)
        for call in (
            lambda: background.submit(gate),
            lambda: latest("again"),
            lambda: background.every(1, gate),
            periodic,
        ):
            with pytest.raises(errors.QueueClosed, match=r"background is closed; .* too late"):
                call()
        for expected in (1, 2, "task"):
            gate.open()
            assert gate.wait() == (expected,)
        gate.open()
        assert closing() is True
        assert [future.result(0) for future in futures] == [(0,), (1,), (2,)]
        assert background.close() is True
        eventually(lambda: background.counters == BackgroundCounters(4, 0, 0, 0, 0, 0))

    def test_close_finishes_the_requested_second_run_of_a_task(
        self, make: Make, gate: Gate
    ) -> None:
        background = make()
        task = background.every(1000.0, gate)
        task()
        gate.wait()
        task()
        closing = on_thread(lambda: background.close(LONG))
        eventually(lambda: background.closed)
        gate.open()
        gate.wait()
        gate.open()
        assert closing() is True
        assert background.counters.done == 2
        assert background.due == []

    def test_a_due_periodic_call_does_not_begin_after_close(self, make: Make, gate: Gate) -> None:
        background = make(threads=1)
        background.submit(gate)
        gate.wait()
        background.every(0.001, gate)
        eventually(lambda: background.due[0] < time.monotonic())
        closing = on_thread(lambda: background.close(LONG))
        eventually(lambda: background.closed)
        gate.open()
        assert closing() is True
        assert background.counters.done == 1

    def test_close_names_the_calls_that_exceed_its_timeout(
        self, make: Make, gate: Gate, caplog: pytest.LogCaptureFixture
    ) -> None:
        background = make(threads=2)
        running = background.submit(gate, 1)
        task = background.latest(gate)
        task(2)
        gate.wait(), gate.wait()
        task(3)
        waiting = background.submit(gate, 4)
        other = background.latest(gate)
        other(5)
        assert background.close(0.01) is False
        assert waiting.cancelled()
        with pytest.raises(concurrent.futures.CancelledError):
            waiting.result(0)
        assert concurrent.futures.wait([waiting], 0).done == {waiting}
        messages = [record.getMessage() for record in caplog.records]
        assert len(messages) == 2
        assert messages[0].startswith("background is closed; not started: ")
        assert messages[1].startswith("background is closed; still running: ")
        gate.open()
        gate.open()
        assert running.result(LONG) == (1,)
        eventually(lambda: background.counters == BackgroundCounters(2, 0, 1, 0, 0, 0))
        assert gate.entered.empty()

    def test_nothing_to_do(self, make: Make) -> None:
        assert make().close(None) is True
        background = make()
        background.every(1000.0, dict)
        assert background.close(None) is True
        with make() as background:
            future = background.submit(len, "ab")
        assert future.result(0) == 2

    def test_in_the_background(self, make: Make, gate: Gate) -> None:
        background = make(threads=1)
        future = background.submit(lambda: (gate(), background.close(None)))
        gate.wait()
        waiting = background.submit(gate)
        gate.open()
        assert future.result(LONG) == ((), False)
        assert waiting.cancelled()
        assert background.close(LONG) is True

    def test_in_the_background_with_nothing_else_to_do(self, make: Make) -> None:
        background = make()
        assert background.submit(background.close, None).result(LONG) is True

    def test_several_at_once(self, make: Make, gate: Gate) -> None:
        background = make()
        background.submit(gate)
        gate.wait()
        closing = [on_thread(lambda: background.close(LONG)) for _ in range(3)]
        eventually(lambda: background.closed)
        gate.open()
        assert [close() for close in closing] == [True] * 3


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_lost_and_nothing_overlaps(make: Make, seed: int) -> None:
    background = make(threads=3, limit=20)
    inside: dict[int, int] = dict.fromkeys(range(4), 0)
    last: dict[int, int] = {}
    overlaps: list[int] = []
    locks = [threading.Lock() for _ in inside]
    lock = threading.Lock()
    ran: list[tuple[int, int]] = []

    def work(number: tuple[int, int]) -> tuple[int, int]:
        with lock:
            ran.append(number)
        return number

    def reconcile(which: int, number: int) -> None:
        inside[which] += 1
        if inside[which] > 1:
            overlaps.append(which)
        last[which] = number
        time.sleep(0)
        inside[which] -= 1

    tasks = [
        background.latest(lambda number, which=which: reconcile(which, number)) for which in inside
    ]
    asked = dict.fromkeys(inside, 0)
    futures: dict[tuple[int, int], Future[tuple[int, int]]] = {}
    refused = []

    def run(thread: int) -> None:
        chance = random.Random(f"{seed} {thread}")
        for number in range(300):
            if chance.random() < 0.5:
                which = chance.randrange(4)
                with locks[which]:
                    asked[which] += 1
                    tasks[which](asked[which])
                continue
            try:
                future = background.submit(work, (thread, number))
            except errors.QueueFull:
                refused.append((thread, number))
                time.sleep(0)
                continue
            futures[thread, number] = future
            if chance.random() < 0.1:
                future.cancel()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        callers = [on_thread(lambda n=n: run(n)) for n in range(3)]  # type: ignore[misc]
        for caller in callers:
            caller()
    finally:
        sys.setswitchinterval(interval)
    assert background.close(LONG)
    assert overlaps == []
    assert last == asked
    done = {key for key, future in futures.items() if not future.cancelled()}
    assert {key: futures[key].result(0) for key in done} == {key: key for key in done}
    assert sorted(ran) == sorted(done)
    assert background.counters.cancelled == len(futures) - len(done)
    assert len(futures) + len(refused) + sum(asked.values()) == 900
