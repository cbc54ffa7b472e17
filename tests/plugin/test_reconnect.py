"""The loop that keeps a plugin connected."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import queue
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable

import pytest

import nri_sync
from nri_sync import Backoff, errors, run_forever
from nri_sync.net.sockets import listen
from nri_sync.plugin import reconnect
from nri_sync.plugin.state import State
from nri_sync.threads import Latch
from tests.plugin.conftest import MakeStub, Serve
from tests.plugin.harness import LONG, PluginWith, Recorder, Runtime, eventually

__all__: list[str] = []

LOST = errors.ConnectionLost("lost", phase="serve")
FAILED = errors.StartError("failed", phase="dial")
FOREVER = Backoff(first=10 * LONG, most=10 * LONG, jitter=0.0)
STEADY = Backoff(first=1.0, factor=2.0, most=8.0, jitter=0.0, stable=60.0)


class TestBackoff:
    def test_it_grows_up_to_the_most(self) -> None:
        backoff = Backoff(first=0.5, factor=3.0, most=10.0, jitter=0.0)
        assert [backoff.delay(attempt) for attempt in range(1, 6)] == [0.5, 1.5, 4.5, 10.0, 10.0]

    def test_it_need_not_grow(self) -> None:
        backoff = Backoff(first=2.0, factor=1.0, most=2.0, jitter=0.0)
        assert {backoff.delay(attempt) for attempt in range(1, 50)} == {2.0}

    def test_any_number_of_attempts(self) -> None:
        assert Backoff(jitter=0.0).delay(10**6) == 30.0

    @pytest.mark.parametrize("jitter", [0.5, 1.0])
    def test_jitter_shortens_at_random(self, jitter: float) -> None:
        backoff = Backoff(first=1.0, most=1.0, jitter=jitter)
        delays = [backoff.delay(1) for _ in range(200)]
        assert all(1.0 - jitter <= delay <= 1.0 for delay in delays)
        assert len(set(delays)) > 100
        assert max(delays) - min(delays) > jitter / 2

    @pytest.mark.parametrize(
        "options",
        [
            {"first": 0},
            {"first": -1},
            {"factor": 0.5},
            {"first": 2, "most": 1},
            {"jitter": -0.1},
            {"jitter": 1.1},
            {"stable": -1},
            {"first": math.nan},
        ],
    )
    def test_invalid_arguments(self, options: dict[str, float]) -> None:
        with pytest.raises(ValueError, match="does not make sense"):
            Backoff(**options)


class Script:
    """Stands in for a stub. ``outcomes`` are the results of the starts: an exception is raised, a
    ConnectionLost ends the session, None is a stop; a function is called, and returns one of these.
    """

    name = "10-test"

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.calls: list[str] = []
        self.close_reason: errors.ConnectionLost | None = None
        self._outcome: Any = None

    is_closed = False
    handover = None
    _spec = SimpleNamespace(source=None)

    def _until_stopped(self) -> Latch:
        self.stopped = Latch()
        return self.stopped

    def _start_unless(self, stopped: Latch) -> None:
        assert stopped is self.stopped
        self.calls.append("start")
        outcome = self.outcomes.pop(0)
        self._outcome = outcome() if callable(outcome) else outcome
        if isinstance(self._outcome, Exception) and not isinstance(
            self._outcome, errors.ConnectionLost
        ):
            raise self._outcome

    def wait(self, timeout: float | None) -> bool:
        self.close_reason = self._outcome
        return True

    def stop(self) -> None:
        self.calls.append("stop")


class Clock:
    """Stands in for the waiting, and for the time that passes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.delays: list[float] = []
        self.now = 1000.0
        self.before_waiting: Callable[[], None] = lambda: None
        monkeypatch.setattr(reconnect, "_pause", self._pause)
        monkeypatch.setattr(reconnect, "time", SimpleNamespace(monotonic=lambda: self.now))

    def _pause(self, stopped: Latch, stop_event: threading.Event | None, delay: float) -> None:
        self.before_waiting()
        self.delays.append(delay)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def run(script: Script, **options: Any) -> None:
    run_forever(script, **{"backoff": STEADY, **options})  # type: ignore[arg-type]


class TestLoop:
    def test_a_stop_ends_it(self, clock: Clock) -> None:
        script = Script(None)
        run(script)
        assert (script.calls, clock.delays) == (["start"], [])

    def test_a_stop_while_it_starts_ends_it(self, clock: Clock) -> None:
        script = Script(LOST, errors.StubStopped("stopped"))
        run(script)
        assert script.calls == ["start", "start"]

    def test_it_goes_on_after_losses_and_failures(self, clock: Clock) -> None:
        script = Script(LOST, FAILED, errors.StartTimeout("late", phase="register"), LOST, None)
        run(script)
        assert script.calls == ["start"] * 5
        assert clock.delays == [1.0, 2.0, 4.0, 8.0]

    def test_a_stable_session_starts_the_backoff_anew(self, clock: Clock) -> None:
        def long_session() -> Any:
            clock.now += 60.0
            return LOST

        def short_session() -> Any:
            clock.now += 59.9
            return LOST

        def long_failure() -> Any:
            clock.now += 60.0
            return FAILED

        script = Script(FAILED, FAILED, short_session, long_failure, long_session, FAILED, None)
        run(script)
        assert clock.delays == [1.0, 2.0, 4.0, 8.0, 1.0, 2.0]

    def test_a_session_counts_when_it_was_synchronized(self, clock: Clock) -> None:
        def ended_early() -> Any:
            clock.now += 1000.0
            return errors.ConnectionLost("lost", phase="synchronize")

        run_to_the_end = Script(FAILED, ended_early, ended_early, FAILED, None)
        run(run_to_the_end)
        assert clock.delays == [1.0, 2.0, 4.0, 8.0]

    def test_some_seconds_are_enough_by_default(self, clock: Clock) -> None:
        def session() -> Any:
            clock.now += 5.0
            return LOST

        script = Script(FAILED, FAILED, session, FAILED, None)
        run(script, backoff=Backoff(first=1.0, jitter=0.0))
        assert clock.delays == [1.0, 2.0, 1.0, 2.0]

    def test_fail_fast_is_for_the_first_start(self, clock: Clock) -> None:
        with pytest.raises(errors.StartError) as caught:
            run(Script(FAILED), fail_fast=True)
        assert caught.value is FAILED
        run(Script(LOST, FAILED, None), fail_fast=True)
        assert clock.delays == [1.0, 2.0]

    @pytest.mark.parametrize(
        "error", [errors.AlreadyStarted("started"), ValueError("a bug"), errors.LifecycleError("x")]
    )
    def test_unexpected_exceptions_go_through(self, clock: Clock, error: Exception) -> None:
        with pytest.raises(type(error)) as caught:
            run(Script(LOST, error))
        assert caught.value is error

    def test_hooks(self, clock: Clock) -> None:
        script = Script(FAILED, LOST, None)
        told: list[Any] = []
        run(
            script,
            on_connected=lambda stub: told.append((stub, "connected")),
            on_disconnected=lambda stub, reason: told.append((stub, reason)),
        )
        assert told == [
            (script, FAILED),
            (script, "connected"),
            (script, LOST),
            (script, "connected"),
        ]

    @pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
    def test_a_hook_that_raises_ends_it_and_the_session(
        self, clock: Clock, error: BaseException
    ) -> None:
        def fail(*arguments: object) -> None:
            raise error

        script = Script(LOST)
        with pytest.raises(type(error)):
            run(script, on_connected=fail)
        assert script.calls == ["start", "stop"]
        with pytest.raises(type(error)):
            run(Script(LOST), on_disconnected=fail)

    def test_it_comes_back_when_that_is_safe(self, clock: Clock) -> None:
        answers = [False, False, True, True]
        asked = []

        def is_safe(stub: Any) -> bool:
            asked.append(stub)
            return answers.pop(0)

        script = Script(LOST, LOST, None)
        run(script, is_safe=is_safe)
        # Not asked before the first start.
        assert asked == [script] * 4
        assert script.calls == ["start"] * 3
        assert clock.delays == [1.0, 2.0, 4.0, 8.0]

    def test_a_stop_event_that_is_set(self, clock: Clock) -> None:
        event = threading.Event()
        event.set()
        script = Script()
        run(script, stop_event=event)
        assert script.calls == []

    def test_a_stop_event_that_is_set_between_two_attempts(self, clock: Clock) -> None:
        event = threading.Event()
        clock.before_waiting = event.set
        script = Script(FAILED)
        run(script, stop_event=event)
        assert script.calls == ["start"]

    def test_a_stop_event_that_is_set_by_a_hook(self, clock: Clock) -> None:
        event = threading.Event()
        script = Script(LOST)
        run(script, stop_event=event, on_disconnected=lambda stub, reason: event.set())
        assert script.calls == ["start"]

    def test_a_stop_event_that_is_set_during_a_session(self, clock: Clock) -> None:
        event = threading.Event()

        class Up(Script):
            def wait(self, timeout: float | None) -> bool:
                event.set()
                return False

        script = Up(None)
        run(script, stop_event=event)
        assert script.calls == ["start", "stop"]


@pytest.mark.parametrize("on_main", [True, False])
class TestPausing:
    @pytest.mark.parametrize("event", [None, threading.Event()])
    def test_it_takes_its_time(self, event: threading.Event | None, on_main: bool) -> None:
        began = time.monotonic()
        pause(Latch(), event, 0.15, on_main)
        assert 0.15 <= time.monotonic() - began < LONG

    def test_the_event_ends_it(self, on_main: bool) -> None:
        event = threading.Event()
        timer = threading.Timer(0.05, event.set)
        timer.start()
        began = time.monotonic()
        pause(Latch(), event, LONG, on_main)
        assert time.monotonic() - began < LONG / 2
        timer.join(LONG)

    @pytest.mark.parametrize("event", [None, threading.Event()])
    def test_a_stop_ends_it(self, event: threading.Event | None, on_main: bool) -> None:
        stopped = Latch()
        timer = threading.Timer(0.05, stopped.set)
        timer.start()
        began = time.monotonic()
        pause(stopped, event, LONG, on_main)
        assert time.monotonic() - began < LONG / 2
        timer.join(LONG)


def has_failed(stub: nri_sync.Stub, before: int) -> bool:
    return stub.counters.failed_starts > before


def pause(stopped: Latch, event: threading.Event | None, delay: float, on_main: bool) -> None:
    if on_main:
        reconnect._pause(stopped, event, delay)
    else:
        thread = threading.Thread(target=reconnect._pause, args=(stopped, event, delay))
        thread.start()
        thread.join(LONG)
        assert not thread.is_alive()


class Loop:
    """run_forever() on a new thread."""

    def __init__(self, stub: nri_sync.Stub, **options: Any) -> None:
        self._outcome: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        options.setdefault("backoff", Backoff(first=0.01, most=0.05))
        self._thread = threading.Thread(target=self._run, args=(stub, options), name="loop")
        self._thread.start()

    def _run(self, stub: nri_sync.Stub, options: Any) -> None:
        try:
            run_forever(stub, **options)
        except BaseException as error:
            self._outcome.put(error)
        else:
            self._outcome.put(None)

    def outcome(self) -> BaseException | None:
        return self._outcome.get(timeout=LONG)


class TestWithARuntime:
    def test_it_comes_back_until_it_is_stopped(self, serve: Serve, make_stub: MakeStub) -> None:
        reasons: queue.SimpleQueue[errors.NRIError] = queue.SimpleQueue()
        stub = make_stub(Recorder())
        loop = Loop(stub, on_disconnected=lambda stub, reason: reasons.put(reason))
        # There is no runtime yet.
        assert isinstance(reasons.get(timeout=LONG), errors.StartError)
        for _ in range(3):
            runtime = serve()
            peer = runtime.peer()
            while not reasons.empty():
                reasons.get()
            peer.close()
            assert isinstance(reasons.get(timeout=LONG), errors.ConnectionLost)
            runtime.close()
            assert isinstance(reasons.get(timeout=LONG), errors.NRIError)
        runtime = serve()
        runtime.peer()
        eventually(lambda: stub.started)
        stub.stop()
        assert loop.outcome() is None
        assert stub.state is State.IDLE
        assert stub.counters.sessions >= 4

    def test_the_stop_event_ends_a_running_session(
        self, serve: Serve, make_stub: MakeStub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reconnect, "SLICE", 0.01)
        event = threading.Event()
        runtime = serve()
        stub = make_stub(Recorder())
        loop = Loop(stub, stop_event=event)
        peer = runtime.peer()
        event.set()
        assert loop.outcome() is None
        assert peer.wait_closed(LONG)
        assert stub.state is State.IDLE

    def test_a_stop_ends_a_start(self, serve: Serve, make_stub: MakeStub) -> None:
        runtime = serve(configure=False)
        stub = make_stub(Recorder())
        loop = Loop(stub)
        runtime.peer()
        assert stub.state is State.STARTING
        stub.stop()
        assert loop.outcome() is None

    @pytest.mark.parametrize("end", ["stop", "close"])
    def test_a_stop_ends_the_pause(self, make_stub: MakeStub, end: str) -> None:
        failed = threading.Event()
        stub = make_stub(Recorder())  # there is no runtime
        loop = Loop(stub, backoff=FOREVER, on_disconnected=lambda *_: failed.set())
        assert failed.wait(LONG)
        getattr(stub, end)()
        assert loop.outcome() is None

    def test_a_stop_just_before_the_start_ends_it(
        self, make_stub: MakeStub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The loop has looked whether it was stopped, and is about to begin a start."""
        dialled: list[str] = []
        stub = make_stub(PluginWith(shutdown=lambda: None), dialer=dialled.append)
        new_connection = stub._new_connection

        def stop_first(timeout: float | None) -> Any:
            conn = new_connection(timeout)
            stub.stop()
            return conn

        monkeypatch.setattr(stub, "_new_connection", stop_first)
        assert Loop(stub).outcome() is None
        assert dialled == []

    def test_a_stop_ends_all_loops_and_no_later_one(self, make_stub: MakeStub) -> None:
        attempts: queue.SimpleQueue[str] = queue.SimpleQueue()

        def dialer(path: str) -> socket.socket:
            attempts.put(path)
            raise ConnectionRefusedError

        stub = make_stub(PluginWith(shutdown=lambda: None), dialer=dialer)
        stub.stop()
        for _ in range(2):
            loop = Loop(stub)
            for _ in range(3):
                attempts.get(timeout=LONG)
            stub.stop()
            assert loop.outcome() is None

    def test_a_stub_that_is_closed(self, make_stub: MakeStub) -> None:
        stub = make_stub(Recorder())
        stub.close()
        assert isinstance(Loop(stub).outcome(), errors.StubClosed)

    def test_there_is_nothing_to_come_back_to(self, serve: Serve, make_stub: MakeStub) -> None:
        runtime = serve()
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(runtime.path)
        stub = make_stub(Recorder(), connection=sock)
        loop = Loop(stub)
        runtime.peer().close()
        outcome = loop.outcome()
        assert isinstance(outcome, errors.ConnectionSpent)
        assert "has been used up" in str(outcome)

    def test_a_dialer_may_say_that_it_is_not_connected(self, make_stub: MakeStub) -> None:
        attempts: queue.SimpleQueue[str] = queue.SimpleQueue()

        def dialer(path: str) -> socket.socket:
            attempts.put(path)
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.getpeername()  # raises ENOTCONN
            finally:
                sock.close()
            return sock

        stub = make_stub(PluginWith(shutdown=lambda: None), dialer=dialer)
        event = threading.Event()
        loop = Loop(stub, stop_event=event)
        for _ in range(3):
            attempts.get(timeout=LONG)
        event.set()
        assert loop.outcome() is None

    def test_another_thread_has_started_it(self, serve: Serve, make_stub: MakeStub) -> None:
        runtime = serve()
        stub = make_stub(Recorder())
        stub.start()
        runtime.peer()
        assert isinstance(Loop(stub).outcome(), errors.AlreadyStarted)
        assert stub.started

    @pytest.mark.parametrize("restarts", [8, pytest.param(20, marks=pytest.mark.slow)])
    @pytest.mark.parametrize("how", ["the path vanishes", "the file stays", "at once"])
    def test_it_is_back_at_once_after_each_restart(
        self, serve: Serve, make_stub: MakeStub, how: str, restarts: int
    ) -> None:
        """With the pauses of the default, which grow to 30 s within eight attempts."""
        runtime = serve()
        stub = make_stub(Recorder())
        lost = threading.Event()
        loop = Loop(stub, backoff=Backoff(), on_disconnected=lambda *_: lost.set())
        runtime.peer()
        took = []
        for _ in range(restarts):
            lost.clear()
            runtime.close()
            assert lost.wait(LONG)
            with contextlib.suppress(FileNotFoundError):
                if how == "the path vanishes":
                    os.unlink(runtime.path)
            if how != "at once":
                eventually(functools.partial(has_failed, stub, stub.counters.failed_starts))
            runtime = serve()
            began = time.monotonic()
            runtime.peer()
            took.append(time.monotonic() - began)
        assert sorted(took)[restarts // 2] < 0.5, took
        stub.stop()
        assert loop.outcome() is None

    def test_a_runtime_that_is_away_is_one_failure(
        self, serve: Serve, make_stub: MakeStub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        looks: queue.SimpleQueue[float] = queue.SimpleQueue()
        pause = reconnect._pause

        def counted(stopped: Latch, stop_event: threading.Event | None, delay: float) -> None:
            looks.put(delay)
            pause(stopped, stop_event, 0.001)

        monkeypatch.setattr(reconnect, "_pause", counted)
        reasons: list[errors.NRIError] = []
        stub = make_stub(Recorder())
        loop = Loop(stub, backoff=Backoff(), on_disconnected=lambda _, why: reasons.append(why))
        assert {looks.get(timeout=LONG) for _ in range(50)} == {0.1}
        assert len(reasons) == stub.counters.failed_starts == 1
        serve().peer()
        stub.stop()
        assert loop.outcome() is None
        assert len(reasons) == 1

    def test_the_runtime_sees_no_connection_that_is_not_used(
        self, make_stub: MakeStub, socket_dir: Path
    ) -> None:
        stub = make_stub(Recorder())
        failed = threading.Event()
        loop = Loop(stub, on_disconnected=lambda *_: failed.set())
        assert failed.wait(LONG)
        with listen(str(socket_dir / "nri.sock")) as listener:
            listener.settimeout(LONG)
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(LONG)
                assert connection.recv(1)  # the registration comes by the first one
                stub.stop()
                assert loop.outcome() is None
            listener.stop()

    def test_a_pause_ends_when_the_runtime_is_restarted(
        self, serve: Serve, make_stub: MakeStub
    ) -> None:
        lost = threading.Event()
        # Before the first attempt: a socket that appears during an attempt counts as that of a restart.
        runtime = serve()
        stub = make_stub(Recorder())
        loop = Loop(stub, backoff=FOREVER, on_disconnected=lambda *_: lost.set())
        runtime.peer().close()  # the runtime is there, and has disconnected the plugin
        assert lost.wait(LONG)
        assert not stub.started
        runtime.close()
        serve().peer()
        stub.stop()
        assert loop.outcome() is None

    def test_a_runtime_that_starts_during_an_attempt_counts_as_a_restart(
        self, serve: Serve, make_stub: MakeStub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The loop saw no socket and then connected: a loss costs no pause, the next one does."""
        runtimes: queue.SimpleQueue[Runtime] = queue.SimpleQueue()
        paused = threading.Event()
        attempts = 0

        def start(timeout: float | None) -> Any:
            nonlocal attempts
            attempts += 1
            if attempts == 1:
                runtimes.put(serve())
            return new_connection(timeout)

        def pause(stopped: Latch, stop_event: threading.Event | None, delay: float) -> None:
            paused.set()
            wait(stopped, stop_event, delay)

        stub = make_stub(Recorder())
        new_connection, wait = stub._new_connection, reconnect._pause
        monkeypatch.setattr(stub, "_new_connection", start)
        monkeypatch.setattr(reconnect, "_pause", pause)
        loop = Loop(stub, backoff=FOREVER)
        runtime = runtimes.get(timeout=LONG)
        runtime.peer().close()
        again = runtime.peer()
        assert not paused.is_set()
        again.close()
        assert paused.wait(LONG)
        assert attempts == 2
        stub.stop()
        assert loop.outcome() is None

    @pytest.mark.parametrize("change", ["mode", "owner", "name"])
    def test_a_changed_file_is_the_socket_of_the_same_runtime(
        self, serve: Serve, make_stub: MakeStub, socket_dir: Path, change: str
    ) -> None:
        runtime = serve()
        source = make_stub(Recorder())._spec.source
        before = source.file
        path = socket_dir / "nri.sock"
        if change == "mode":
            path.chmod(0o666)
        elif change == "owner":
            os.chown(path, os.getuid(), os.getgid())
        else:
            path.rename(socket_dir / "other")
            (socket_dir / "other").rename(path)
        assert before is not None
        assert source.file == before
        runtime.close()
        path.unlink(missing_ok=True)
        serve()
        assert source.file != before

    def test_is_safe_is_asked_while_it_watches(self, serve: Serve, make_stub: MakeStub) -> None:
        asked: queue.SimpleQueue[None] = queue.SimpleQueue()
        safe = threading.Event()

        def is_safe(stub: nri_sync.Stub) -> bool:
            asked.put(None)
            return safe.is_set()

        stub = make_stub(Recorder())
        loop = Loop(stub, is_safe=is_safe)
        for _ in range(3):
            asked.get(timeout=LONG)
        runtime = serve()
        for _ in range(3):
            asked.get(timeout=LONG)
        assert runtime.peers.empty()
        safe.set()
        runtime.peer()
        stub.stop()
        assert loop.outcome() is None

    def test_on_stop(self, serve: Serve, make_stub: MakeStub) -> None:
        told: list[Any] = []
        runtime = serve()
        stub = make_stub(Recorder())
        loop = Loop(stub, on_stop=lambda stub: told.append(stub.state))
        runtime.peer()
        stub.stop()
        assert loop.outcome() is None
        assert told == [State.IDLE]
        stub.close()
        failed = errors.StubClosed
        assert isinstance(Loop(stub, on_stop=told.append).outcome(), failed)
        assert told == [State.IDLE]

    @pytest.fixture(autouse=True)
    def _end(self) -> Iterator[None]:
        yield
        eventually(lambda: all(thread.name != "loop" for thread in threading.enumerate()))
