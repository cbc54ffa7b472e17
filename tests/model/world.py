"""A deterministic scheduler, and a search through every order in which its threads can take their steps.

A thread is a generator. It yields where another thread may run next: a function that returns the ways in which
it can go on, or None where it can always go on. The scheduler sends it the way that was chosen. Locks, conditions
and latches are made of that.

The search is one of explicit states. A state is the place and the variables of each thread, and the objects that
they lead to. Each state is left in every possible way, once. Generators cannot be copied: to go back to a state,
the search starts again and repeats the steps that led there.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import itertools
import time
import types
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any, Callable, ClassVar, NamedTuple, Optional

__all__ = [
    "Condition",
    "Latch",
    "Lock",
    "Model",
    "Result",
    "Steps",
    "Thread",
    "Violation",
    "World",
    "explore",
]

#: The ways to go on; empty while the thread has to wait.
Options = Optional[Callable[[], Sequence[Any]]]
#: A thread, or a part of one.
Steps = Generator[Options, Any, Any]


class Violation(Exception):
    """An invariant does not hold."""


class Model:
    """An object that is part of the state."""

    #: The attributes that change, or lead to objects that do.
    fields: ClassVar[tuple[str, ...]] = ()


class Thread:
    def __init__(self, name: str, steps: Steps) -> None:
        self.name = name
        self.steps = steps
        self.waits_for: Options = None
        self.is_done = False
        self.children = 0
        #: Values that its statement has read so far: they are on the stack of the generator, which cannot be seen.
        self.reads: list[Any] = []
        #: The latch that it waits for.
        self.waits_on: Latch | None = None

    def options(self) -> Sequence[Any]:
        if self.is_done:
            return ()
        return (None,) if self.waits_for is None else self.waits_for()


class World:
    """Threads, and the objects that they share. Subclasses make both, and check them."""

    def __init__(self) -> None:
        self.threads: dict[str, Thread] = {}
        self.current: Thread = Thread("", iter(()))  # type: ignore[arg-type]
        # Set when the search leaves this world: generators that are closed run their finally clauses.
        self.is_left = False
        #: Whether a deadline can pass.
        self.has_time = False
        #: The names of threads that do the same. Two states that differ only by a swap of theirs are one state.
        self.alike: list[list[str]] = []

    # For threads

    def spawn(self, steps: Steps, name: str = "") -> Thread:
        """A new thread, by default named after its parent, so that its name does not depend on the order.

        It runs up to its first pause at once; before that it must not touch anything that others see.
        """
        parent = self.current
        if not name:
            parent.children += 1
            name = f"{parent.name}.{parent.children}"
        self.threads[name] = thread = Thread(name, steps)
        self.step(name, None)
        self.current = parent
        return thread

    def pause(self, options: Options = None) -> Steps:
        """Let others run, then go on in one of the ways; returns that."""
        if self.is_left:
            return None
        return (yield options)

    # For the search

    def roots(self) -> Iterable[Any]:
        """Objects that are part of the state, besides the variables of threads."""
        return ()

    def check_end(self) -> None:
        """Raise Violation if no thread can go on, and the state is not one to end in."""

    def transitions(self) -> list[tuple[str, Any]]:
        """The steps to try. One is enough where no step of another thread can change its effect, now or later."""
        for name, thread in self.threads.items():
            if thread.waits_on is not None and thread.waits_on.is_set() and self.commutes(thread):
                return [(name, None)]
        return [(name, way) for name, thread in self.threads.items() for way in thread.options()]

    def commutes(self, thread: Thread) -> bool:
        """Whether the rest of a call whose latch is set can be done at any time with the same effect."""
        return False

    def step(self, name: str, way: Any) -> None:
        """Let a thread go on, in one of its ways, until it yields again."""
        thread = self.current = self.threads[name]
        try:
            thread.waits_for = thread.steps.send(way)
        except StopIteration:
            thread.is_done = True
            thread.reads.clear()
        except Violation:
            raise
        except Exception as error:
            raise Violation(f"{name} raised {error!r}") from error

    def leave(self) -> None:
        self.is_left = True
        for thread in list(self.threads.values()):
            self.current = thread
            # Its clean-up finds a world in which others have not finished theirs.
            with contextlib.suppress(Exception):
                thread.steps.close()

    def fingerprint(self) -> int:
        """A number of 64 bits for the state: the same for equal states."""
        return min(map(self._fingerprint, self._namings()))

    def _fingerprint(self, names: dict[str, str]) -> int:
        encode = _Encoder(names).encode
        threads = {
            names.get(name, name): thread
            for name, thread in self.threads.items()
            if not thread.is_done
        }
        parts = [
            (name, tuple(encode(item) for item in thread.reads), _frames(thread.steps, encode))
            for name, thread in sorted(threads.items())
        ]
        return hash((tuple(parts), tuple(encode(root) for root in self.roots())))

    def _namings(self) -> Iterator[dict[str, str]]:
        """New names of all threads: threads that are alike swap theirs.

        Threads at different places need not swap: a group gives its names to its threads in the order of their
        places.
        """
        orders = [self._orders(group) for group in self.alike]
        for chosen in itertools.product(*orders):
            swapped = {
                old: new
                for group, order in zip(self.alike, chosen)
                for old, new in zip(order, group)
            }
            yield {
                name: swapped[first] + name[len(first) :]
                for name in self.threads
                if (first := name.partition(".")[0]) in swapped
            }

    def _orders(self, group: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """The threads of a group, in the order of their places; those at one place in every order."""
        places: dict[Any, list[str]] = {}
        for name in group:
            places.setdefault(_place(self.threads[name]), []).append(name)
        ties = [itertools.permutations(places[place]) for place in sorted(places)]
        for chosen in itertools.product(*ties):
            yield tuple(itertools.chain.from_iterable(chosen))


def _place(thread: Thread) -> tuple[int, ...]:
    """Where a thread is in its code."""
    found = [len(thread.reads), thread.children]
    steps: Any = thread.steps
    while isinstance(steps, types.GeneratorType):
        if steps.gi_frame is not None:
            found += [id(steps.gi_code), steps.gi_frame.f_lasti]
        steps = steps.gi_yieldfrom
    return tuple(found)


def _frames(steps: Any, encode: Callable[[Any], Any]) -> tuple[Any, ...]:
    found: list[Any] = []
    while isinstance(steps, types.GeneratorType):
        frame = steps.gi_frame
        if frame is not None:
            found.append((id(steps.gi_code), frame.f_lasti))
            found += [encode(value) for value in frame.f_locals.values()]
        steps = steps.gi_yieldfrom
    return tuple(found)


class _Encoder:
    """Values as tuples and atoms. An object is written out once, then named by a number."""

    def __init__(self, names: dict[str, str]) -> None:
        """``names`` has other names of some threads."""
        self._names = names
        self._numbers: dict[int, int] = {}

    def encode(self, value: Any) -> Any:
        kind = type(value)
        if kind is str:
            return self._names.get(value, value)
        if kind in _ATOMS:
            return value
        fields = _FIELDS.get(kind)
        if fields is None:
            return self._encode_other(kind, value)
        if not fields:
            return kind.__name__
        number = self._numbers.get(id(value))
        if number is not None:
            return (number,)
        self._numbers[id(value)] = len(self._numbers)
        encode = self.encode
        return (kind.__name__, *[encode(getattr(value, name)) for name in fields])

    def _encode_other(self, kind: type, value: Any) -> Any:
        if kind in _CONTAINERS:
            number = self._numbers.get(id(value))
            if number is not None:
                return (number,)
            self._numbers[id(value)] = len(self._numbers)
            if kind is dict:
                # Names of threads are keys of tables whose order has no effect.
                named = all(type(key) is str for key in value)
                keys = sorted(value, key=self.encode) if named else value
                return tuple([(self.encode(key), self.encode(value[key])) for key in keys])
            return (kind.__name__, *map(self.encode, value))
        if kind is tuple:
            return tuple(map(self.encode, value))
        if kind is types.MethodType:
            return (value.__name__, self.encode(value.__self__))
        if kind is functools.partial:
            return (self.encode(value.func), self.encode(value.args))
        if kind is types.FunctionType:
            cells = value.__closure__ or ()
            return (value.__qualname__, *(self.encode(cell.cell_contents) for cell in cells))
        if isinstance(value, enum.Enum):
            return value.name
        _FIELDS[kind] = getattr(kind, "fields", ())
        return self.encode(value)


_ATOMS = frozenset({str, int, bool, float, bytes, type(None)})
_CONTAINERS = frozenset({list, dict, deque})
#: The attributes of each class that are part of the state.
_FIELDS: dict[type, tuple[str, ...]] = {}


# Locks, conditions, deadlines and latches


class Lock(Model):
    fields: ClassVar[tuple[str, ...]] = ("holder",)

    def __init__(self, world: World) -> None:
        self._world = world
        self.holder = ""

    def locked(self) -> bool:
        return bool(self.holder)

    def acquire(self) -> Steps:
        yield from self._world.pause(lambda: () if self.holder else (None,))
        self.holder = self._world.current.name

    def release(self) -> None:
        self.holder = ""


class Condition(Model):
    fields: ClassVar[tuple[str, ...]] = ("_waiting",)

    def __init__(self, world: World, lock: Lock) -> None:
        self._world = world
        self._lock = lock
        self._waiting: list[str] = []

    def acquire(self) -> Steps:
        return self._lock.acquire()

    def release(self) -> None:
        self._lock.release()

    def wait(self, deadline: Deadline | None = None) -> Steps:
        name = self._world.current.name
        self._waiting.append(name)
        self._lock.release()
        yield from self._world.pause(
            lambda: () if name in self._waiting and not (deadline and deadline.expired) else (None,)
        )
        if name in self._waiting:
            self._waiting.remove(name)
        yield from self._lock.acquire()

    def notify_all(self) -> None:
        self._waiting.clear()


class Deadline(Model):
    """A deadline that passes when the world lets it pass."""

    fields: ClassVar[tuple[str, ...]] = ("expired",)

    def __init__(self) -> None:
        self.expired = False

    def remaining(self) -> Deadline:
        """For :meth:`Condition.wait`: a time is a deadline here."""
        return self


class Latch(Model):
    fields: ClassVar[tuple[str, ...]] = ("_is_set",)

    def __init__(self, world: World) -> None:
        self._world = world
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> Steps:
        # Only waits see a latch. If they cannot time out, no order is lost without a step here.
        if self._world.has_time:
            yield from self._world.pause()
        self._is_set = True

    def wait(self, deadline: Deadline | None = None) -> Steps:
        thread = self._world.current
        thread.waits_on = self
        yield from self._world.pause(
            lambda: (None,) if self._is_set or (deadline and deadline.expired) else ()
        )
        thread.waits_on = None
        return self._is_set


# The search


class Result(NamedTuple):
    states: int
    transitions: int
    #: States in which no thread can go on.
    ends: int
    longest: int
    seconds: float
    #: Each violation with the steps that lead there.
    violations: dict[str, tuple[str, ...]]

    def __str__(self) -> str:
        wrong = [f"{text}: {'; '.join(path)}" for text, path in self.violations.items()]
        return "\n".join([f"{self.states:,} states, {self.transitions:,} steps", *wrong])


def explore(
    make: Callable[[], World],
    *,
    switches: int | None = None,
    limit: int | None = None,
    to_first: bool = False,
) -> Result:
    """Visit every state that ``make()`` leads to. A state that is wrong is not left.

    ``switches`` bounds how often a thread is left that could go on, ``limit`` the number of states. ``to_first``
    ends the search at the first violation.
    """
    return _Search(make, switches, limit, to_first).run()


class _Search:
    def __init__(
        self, make: Callable[[], World], switches: int | None, limit: int | None, to_first: bool
    ) -> None:
        self._make = make
        self._switches = switches
        self._limit = limit
        self._to_first = to_first
        self._seen: set[Any] = set()
        self._transitions = self._ends = self._longest = 0
        # The steps that lead to the state; for each state on the way, the steps from there that are left to try,
        # and the number of switches so far.
        self._path: list[tuple[str, Any]] = []
        self._left: list[list[tuple[str, Any]]] = []
        self._states: list[Any] = []
        self._switched = [0]

    def run(self) -> Result:
        began = time.monotonic()
        world = self._make()
        violations: dict[str, tuple[str, ...]] = {}
        while True:
            try:
                if self._path:
                    world.step(*self._path[-1])
                steps = self._arrive(world)
            except Violation as error:
                steps = []
                path = (name if way is None else f"{name}: {way}" for name, way in self._path)
                violations.setdefault(str(error), tuple(path))
                self._states.append(None)
            self._left.append(steps)
            if (self._to_first and violations) or len(self._seen) == self._limit:
                break
            if self._go_back():
                if not self._left:
                    break
                world.leave()
                world = self._make()
                for name, way in self._path:
                    world.step(name, way)
            self._choose(world)
        world.leave()
        seconds = time.monotonic() - began
        return Result(
            len(self._seen), self._transitions, self._ends, self._longest, seconds, violations
        )

    def _arrive(self, world: World) -> list[tuple[str, Any]]:
        """The steps to try from here; none if the search was here before."""
        state: Any = world.fingerprint()
        if self._switches is not None:
            state = (state, self._switched[-1], self._path[-1][0] if self._path else "")
        if state in self._states:
            raise Violation("the threads go round in a circle")
        self._longest = max(self._longest, len(self._path))
        steps: list[tuple[str, Any]] = []
        if state not in self._seen:
            self._seen.add(state)
            steps = world.transitions()
            if not steps:
                self._ends += 1
                world.check_end()
            elif self._path and self._switched[-1] == self._switches:
                steps = [step for step in steps if step[0] == self._path[-1][0]] or steps
        self._states.append(state)
        return steps

    def _go_back(self) -> bool:
        """To the last state that can be left in another way; False if the search is there."""
        moved = False
        while self._left and not self._left[-1]:
            self._left.pop()
            self._states.pop()
            moved = True
            if self._path:
                self._path.pop()
                self._switched.pop()
        return moved

    def _choose(self, world: World) -> None:
        before = self._path[-1][0] if self._path else ""
        step = self._left[-1].pop()
        is_switch = bool(before) and step[0] != before and bool(world.threads[before].options())
        self._path.append(step)
        self._switched.append(self._switched[-1] + is_switch)
        self._transitions += 1
