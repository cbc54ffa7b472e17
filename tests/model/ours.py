"""The stub of this package under the scheduler, with a model around it.

``nri_sync/plugin/lifecycle.py``, ``connection.py`` and ``stub.py`` are read from their files and run as
generators. The model plays the parts below them: a socket that a reading thread closes, a runtime that registers
and configures the plugin or goes away at any moment, a clock.
"""

from __future__ import annotations

import math
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable, ClassVar

import nri_sync
from nri_sync.errors import AlreadyStarted, NRIError
from nri_sync.plugin.state import State
from tests.model.scenarios import Scenario
from tests.model.story import Call, Session, Story
from tests.model.transform import Names, explored
from tests.model.world import (
    Condition,
    Deadline,
    Latch,
    Lock,
    Model,
    Steps,
    Thread,
    Violation,
    World,
)

__all__ = ["SOURCES", "OurWorld", "Package"]

SOURCES = {
    name: (Path(nri_sync.__file__).parent / "plugin" / f"{name}.py").read_text()
    for name in ("lifecycle", "connection", "stub")
}

_FUNCTIONS = {
    "lifecycle": "begin attach learned configured begin_end ended _move_locked _end_locked",
    "connection": "start abort mark run _dial_failed _register _registered learn configured configure_failed"
    " expire stop fail _end _close_gently _lost _conclude _release",
    "stub": "start _new_connection _start _concluded stop mark wait _current _wait run",
}
_NAMES = Names(
    functions=frozenset(" ".join(_FUNCTIONS.values()).split()),
    waiting=frozenset(
        "wait set off_main open close abandon drain wait_idle _on_loss".split()  # noqa: SIM905
    ),
    # The others are read by threads that a latch, set after the last write, has released.
    read=frozenset("state current is_configured is_over _conns _last_answers".split()),  # noqa: SIM905
    written=frozenset(
        "state current is_configured is_over error session close_reason".split()  # noqa: SIM905
    ),
    steps=frozenset({"_live"}),
    lock="_changed",
)


class Package:
    """The modules of the package as generators. Its names lead to the world that is explored now."""

    def __init__(self, sources: dict[str, str] = SOURCES) -> None:
        self.world: OurWorld
        modules = {name: explored(text, name, _NAMES) for name, text in sources.items()}
        self.lifecycle, self.connection, self.stub = (
            modules[name] for name in ("lifecycle", "connection", "stub")
        )
        nothing = types.SimpleNamespace(in_child=lambda function: None)
        common = {
            "_begin": lambda: self.world.current.reads.clear(),
            "_read": lambda owner, name: self.world.read(owner, name),
            "_write": lambda owner, name, value: self.world.write(owner, name, value),
            "_thread": types.SimpleNamespace(get_ident=lambda: self.world.current.name),
            "fork": nothing,
            "Latch": lambda: Latch(self.world),
            "Deadline": lambda timeout: self.world.deadline(timeout),
            "off_main": lambda name, target: target(),
            "_step": lambda function, *args: self.world.single_step(function, *args),
            "on_main_thread": lambda: False,
            "spawn": lambda name, target, *args: self.world.spawn(target(*args)),
        }
        for module in modules.values():
            vars(module).update(common)
        vars(self.lifecycle)["threading"] = types.SimpleNamespace(
            Lock=lambda: Lock(self.world), Condition=lambda lock: Condition(self.world, lock)
        )
        vars(self.connection).update(
            peer_credentials=lambda sock: None,
            phases=_Phases,
            threading=types.SimpleNamespace(current_thread=types.SimpleNamespace),
            IgnoredFields=lambda *args: _Nothing(),
            Session=lambda sock, router, **options: _Session(self.world, sock, options),
        )
        self.lifecycle.Lifecycle.fields = ("close_reason", "current", "state", "_changed", "_lock")
        self.lifecycle.Attempt.fields = self.lifecycle.Attempt.__slots__
        self.connection.Connection.fields = ("attempt", "decided", "ended", "_last_answers")
        self.stub.Stub.fields = ("_conns", "_lifecycle")
        vars(self.stub).update(
            Connection=self.connection.Connection, Lifecycle=self.lifecycle.Lifecycle
        )


class OurWorld(World):
    """One stub of the package, and the threads of a scenario."""

    def __init__(self, package: Package, scenario: Scenario, *, is_fine: bool = False) -> None:
        super().__init__()
        self.is_fine = is_fine
        package.world = self
        self.scenario = scenario
        self.has_time = bool(scenario.expiries)
        self.story = Story(self)
        self.left = {"losses": scenario.losses, "expiries": scenario.expiries}
        self.deadlines: list[Deadline] = []
        #: The sessions whose sockets belong to a reading thread.
        self.read_by: dict[str, Session] = {}
        self.stub = _stub(package, self)
        self.lifecycle = self.stub._lifecycle
        for number, calls in enumerate(scenario.threads):
            self.spawn(self.making(calls.split()), f"{number} {calls}")
        self.alike = [
            [f"{number} {calls}" for number, other in enumerate(scenario.threads) if other == calls]
            for calls in dict.fromkeys(scenario.threads)
            if scenario.threads.count(calls) > 1
        ]
        if scenario.expiries:
            self.spawn(self._clock(), "clock")

    def roots(self) -> Sequence[Any]:
        return (self.stub, self.story, self.left, self.deadlines, self.read_by)

    # The names of the package

    def single_step(self, function: Callable[..., Any], *args: Any) -> Steps:
        yield from self.pause()
        value = function(*args)
        self.current.reads.append(value)
        return value

    def deadline(self, timeout: float | None) -> Deadline:
        deadline = _TimeOf(self.story.own_start())
        if timeout is not None and self.left["expiries"]:
            self.deadlines.append(deadline)
        return deadline

    def read(self, owner: Any, name: str) -> Steps:
        # A coarse step leaves out reads that a method of the lifecycle repeats under the lock.
        if self.is_fine or name == "current":
            yield from self.pause()
        value = getattr(owner, name)
        self.current.reads.append(value)
        return value

    def write(self, owner: Any, name: str, value: Any) -> Steps:
        if self.is_fine:
            yield from self.pause()
        if self.lifecycle._lock.holder != self.current.name and not self.is_left:
            raise Violation(f"{name} is written without the lock")
        setattr(owner, name, value)
        if name == "is_configured":
            owner.session.link.session.is_configured = value

    # The application

    def making(self, names: Sequence[str], *, inside_handler: bool = False) -> Steps:
        # The place of an iterator is not part of the state; a number is.
        for number in range(len(names)):
            yield from self.pause()
            if not self.is_left:
                yield from getattr(self, f"_{names[number]}")(inside_handler)

    def _start(self, inside_handler: bool) -> Steps:
        call = self.story.called("start", is_busy=self.lifecycle.state is not State.IDLE)
        outcome = ""
        try:
            yield from self.stub.start()
        except AlreadyStarted as error:
            outcome = "AlreadyStarted"
            if str(error).endswith("stopping") and not inside_handler:
                raise Violation(
                    "start() does not wait for the end of the session before"
                ) from error
        except NRIError as error:
            outcome = type(error).__name__
        self.story.returned(call, outcome)

    def _stop(self, inside_handler: bool) -> Steps:
        call = self.story.called("stop", inside_handler=inside_handler)
        call.found = [conn.attempt for conn in self.stub._conns]
        yield from self.stub.stop()
        if not inside_handler and not all(attempt.is_over for attempt in call.found):
            raise Violation("stop() has returned, and an attempt that it had found is not over")
        self.story.returned(call)

    def _wait(self, inside_handler: bool) -> Steps:
        call = self.story.called("wait", inside_handler=inside_handler)
        yield from self.stub.wait()
        self.story.returned(call)

    def on_close(self, stub: Any) -> Steps:
        if self.is_left:
            return
        session = self.read_by[self.current.name]
        self.story.on_close(session)
        yield from self.making(self.scenario.on_close.split())

    # The runtime, the plugin and the clock

    def read_link(self, link: _Link) -> Steps:
        """The reading thread: the events of the runtime, up to the end."""
        session = link.session
        self.read_by[self.current.name] = session
        for number in range(2):
            step = "" if number else "configure"
            way = yield from self.pause(lambda step=step: self._ways(link, step))  # type: ignore[misc]
            if way == "loss":
                self.left["losses"] -= 1
                session.is_lost = True
            if way in ("loss", "closed"):
                break
            self.spawn(self._configure(link))
        if not self.is_left:
            self.story.closed(session)
            yield from link.lost(None if way == "closed" else NRIError("gone"))
        if not self.is_left:
            del self.read_by[self.current.name]
            self.story.forget(session)

    def _ways(self, link: _Link, step: str) -> Sequence[str]:
        if link.closing:
            return ("closed",)
        return (*([step] if step else []), *(["loss"] if self.left["losses"] else []))

    def _configure(self, link: _Link) -> Steps:
        """The thread that serves Configure."""
        yield from self.pause()
        served = _Served(self)
        running = link.running
        running[self.current.name] = served
        does = self.scenario.configure
        if does == "raise":
            link.session.has_failed = True
            yield from link.conn.configure_failed(ValueError("no"), served)
        else:
            yield from self.making(does.split(), inside_handler=True)
            yield from link.conn.configured(0, 0)
        del running[self.current.name]
        if served.answered is not None:
            yield from served.answered.set()

    def _clock(self) -> Steps:
        while True:
            at = yield from self.pause(self._unexpired)
            if self.is_left:
                return
            self.left["expiries"] -= 1
            deadline: Any = self.deadlines[at]
            deadline.expired = True
            if deadline.call is not None:
                deadline.call.was_late = True

    def _unexpired(self) -> Sequence[int]:
        if not self.left["expiries"]:
            return ()
        return [at for at, deadline in enumerate(self.deadlines) if not deadline.expired]

    # Rules

    def commutes(self, thread: Thread) -> bool:
        # The call only returns its outcome, which is decided. A call under way excuses others, so the early return
        # makes the rules stricter.
        return "." not in thread.name and not self.has_time

    def check_end(self) -> None:
        self.story.check_end(self._waits_for_session)
        up = any(session.is_up for session in self.story.sessions)
        if self.lifecycle.state is not (State.STARTED if up else State.IDLE):
            raise Violation(f"{self.lifecycle.state} at the end")
        if len(self.stub._conns) != up or (self.lifecycle.current is not None) != up:
            raise Violation("a connection is left")
        if self.lifecycle._lock.holder:
            raise Violation(f"the lock is left to {self.lifecycle._lock.holder}")

    def _waits_for_session(self, name: str) -> bool:
        latch = self.threads[name].waits_on
        return any(
            conn.ended is latch and conn.attempt.session.link.session.is_up
            for conn in self.stub._conns
        )


def _stub(package: Package, world: OurWorld) -> Any:
    stub = object.__new__(package.stub.Stub)
    stub._spec = _Spec(world)
    stub._on_close = world.on_close
    stub._lifecycle = package.lifecycle.Lifecycle("10-test", _Facts())
    stub._router = None
    stub._lane = _Nothing()
    stub._conns = {}
    stub._until_stopped_latches = set()
    stub._is_closed = False
    return stub


class _TimeOf(Deadline):
    fields: ClassVar[tuple[str, ...]] = ("expired", "call")

    def __init__(self, call: Call | None) -> None:
        super().__init__()
        self.call = call


class _Link(Model):
    """The socket of a session, and the thread that reads from it."""

    fields: ClassVar[tuple[str, ...]] = ("closing", "running", "session")

    def __init__(self, world: OurWorld, session: Session, conn: Any, lost: Any) -> None:
        self._world = world
        self.session = session
        self.conn = conn
        self.lost = lost
        self.closing = False
        self.running: dict[str, _Served] = {}

    def run(self) -> Steps:
        return self._world.read_link(self)

    def close(self, cause: object = None) -> Steps:
        yield from self._world.pause()
        self.closing = True

    def abandon(self) -> Steps:
        yield from self._world.pause()
        if not self._world.is_left:
            self._world.story.closed(self.session)
            self._world.story.forget(self.session)

    def drain(self, deadline: object) -> Steps:
        yield from self._world.pause()


class _Session(Model):
    fields: ClassVar[tuple[str, ...]] = ("link",)

    def __init__(self, world: OurWorld, sock: _Socket, options: dict[str, Any]) -> None:
        self._world = world
        self.link = _Link(world, sock.session, options["owner"], options["lost"])
        self.server = self.client = self

    @property
    def running(self) -> dict[str, _Served]:
        return self.link.running

    def start(self, *args: Any, **options: Any) -> Steps:
        """Send RegisterPlugin."""
        yield from ()
        if not self._world.is_left:
            self._world.story.registered(self.link.session)
        return types.SimpleNamespace(stream_id=1)

    def stop_accepting(self) -> None:
        pass

    def wait_idle(self, deadline: Deadline) -> Steps:
        yield from self._world.pause(
            lambda: () if self.running and not deadline.expired else (None,)
        )


class _Socket(Model):
    fields: ClassVar[tuple[str, ...]] = ("session",)

    def __init__(self, session: Session) -> None:
        self.session = session

    def setblocking(self, blocking: bool) -> None:
        pass


class _Served(Model):
    """A request that a handler serves."""

    fields: ClassVar[tuple[str, ...]] = ("answered",)

    handler = "configure"
    since = 0.0

    def __init__(self, world: OurWorld) -> None:
        self._world = world
        self.answered: Latch | None = None

    def when_answered(self) -> Latch:
        if self.answered is None:
            self.answered = Latch(self._world)
        return self.answered


class _Facts:
    registration_timeout = request_timeout = 5.0
    runtime_nri_version = ""
    answer_within = math.inf

    def _replace(self, **fields: object) -> _Facts:
        return self


class _Nothing:
    """Takes every call, and does nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **options: ""


class _Spec:
    """The plugin, whose source makes connections."""

    name = "10-test"
    logger = tally = identity = _Nothing()
    defaults = _Facts()
    registration = b""
    late_reply = False

    def __init__(self, world: OurWorld) -> None:
        self.source = _Source(world)


class _Source:
    path = ""

    def __init__(self, world: OurWorld) -> None:
        self._world = world

    def describe(self) -> str:
        return ""

    def open(self, deadline: _TimeOf, is_unwanted: object) -> Steps:
        yield from ()
        return _Socket(self._world.story.dialled(deadline.call))


class _Phases:
    """In place of the texts of errors."""

    @staticmethod
    def timed_out(name: str, phase: str, **options: bool) -> Exception:
        return nri_sync.errors.StartTimeout("", phase=phase)

    @staticmethod
    def lost(*args: object) -> str:
        return ""

    @staticmethod
    def dial_failed(name: str, error: BaseException, source: object) -> Exception:
        return nri_sync.errors.StartError(str(error), phase="dial")
