"""The lifecycle of the stub in every order of its threads' steps; and the proof that the search finds mistakes."""

from __future__ import annotations

import functools

import pytest

from tests.model.go_stub import GoWorld
from tests.model.mistakes import MISTAKES, SCENARIOS
from tests.model.ours import SOURCES, OurWorld, Package
from tests.model.scenarios import COARSE, FINE, LARGE, LARGE_LIMIT, LONG, Scenario
from tests.model.world import Latch, Lock, Result, Steps, Violation, World, explore

__all__: list[str] = []


@pytest.fixture(scope="module")
def package() -> Package:
    return Package()


# The package


@pytest.mark.parametrize("scenario", FINE, ids=str)
def test_every_order_of_all_accesses(package: Package, scenario: Scenario) -> None:
    result = explore(lambda: OurWorld(package, scenario, is_fine=True))
    assert result.violations == {}
    assert result.states > 40


@pytest.mark.parametrize("scenario", COARSE, ids=str)
def test_every_order_of_the_steps_of_the_lifecycle(package: Package, scenario: Scenario) -> None:
    result = explore(lambda: OurWorld(package, scenario))
    assert result.violations == {}
    assert result.states > 40


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scenario", LONG, ids=str)
def test_every_order_of_up_to_four_threads(package: Package, scenario: Scenario) -> None:
    assert explore(lambda: OurWorld(package, scenario)).violations == {}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scenario", LARGE, ids=str)
def test_some_orders_of_two_and_more_starts(package: Package, scenario: Scenario) -> None:
    result = explore(lambda: OurWorld(package, scenario), limit=LARGE_LIMIT)
    assert result.violations == {}
    assert result.states == LARGE_LIMIT


# The reference's stub


def _of_reference(scenario: Scenario) -> str:
    return "\n".join(explore(lambda: GoWorld(scenario)).violations)


def test_d9_is_found() -> None:
    found = explore(lambda: GoWorld(Scenario("start", losses=1))).violations
    assert list(found) == ["deadlock: start() of 0 start never returns"]
    (path,) = found.values()
    assert path.index("0 start: registered") < path.index("0 start.1: loss")


def test_d11_is_found() -> None:
    found = _of_reference(Scenario("start", configure="stop"))
    assert found == "deadlock: start() of 0 start never returns"


def test_d12_is_found() -> None:
    found = _of_reference(Scenario("start start", losses=1))
    assert "start() ended with StartError without a reason" in found.splitlines()


def test_d15_is_found() -> None:
    found = _of_reference(Scenario("start stop start"))
    assert found == "a session has ended without a loss or a stop()"


def test_the_model_of_the_reference_starts_and_stops() -> None:
    assert _of_reference(Scenario("start stop")) == ""
    assert _of_reference(Scenario("start", "stop")) == ""
    assert _of_reference(Scenario("start wait", "stop")) == ""


@pytest.mark.parametrize(
    "scenario",
    [
        Scenario("start", losses=1),
        Scenario("start", configure="stop"),
        Scenario("start start", losses=1),
        Scenario("start stop start"),
    ],
    ids=["d9", "d11", "d12", "d15"],
)
def test_the_same_scenario_with_the_package(package: Package, scenario: Scenario) -> None:
    assert explore(lambda: OurWorld(package, scenario, is_fine=True)).violations == {}


# Mistakes that are made on purpose


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(mistake: str) -> None:
    scenario, name, replacements = MISTAKES[mistake]
    sources = dict(SOURCES)
    for old, new in replacements:
        assert sources[name].count(old) == 1, f"the source has changed: {old}"
        sources[name] = sources[name].replace(old, new)
    package = Package(sources)
    worlds = [
        functools.partial(OurWorld, package, SCENARIOS[scenario], is_fine=is_fine)
        for is_fine in (False, True)
    ]
    assert any(explore(world, to_first=True).violations for world in worlds)


def test_their_scenarios_are_explored_without_a_mistake() -> None:
    assert {str(scenario) for scenario in SCENARIOS.values()} <= {
        str(scenario) for scenario in (*FINE, *COARSE)
    }


# The search itself


class _Two(World):
    """Two threads that count to one, each reading and then writing."""

    def __init__(self, *, with_lock: bool, is_inverted: bool = False) -> None:
        super().__init__()
        self.locks = [Lock(self), Lock(self)]
        self.with_lock = with_lock
        self.count = 0
        self.spawn(self._add(self.locks), "a")
        self.spawn(self._add(self.locks[::-1] if is_inverted else self.locks), "b")

    def _add(self, locks: list[Lock]) -> Steps:
        if self.with_lock:
            for number in range(2):
                yield from locks[number].acquire()
        yield from self.pause()
        count = self.count
        yield from self.pause()
        self.count = count + 1
        for lock in locks:
            lock.release()

    def roots(self) -> list[object]:
        return [self.count, self.locks]

    def check_end(self) -> None:
        if not all(thread.is_done for thread in self.threads.values()):
            raise Violation("deadlock")
        if self.count != 2:
            raise Violation("lost")


def _two(**options: bool) -> Result:
    return explore(lambda: _Two(**options))


def test_a_lost_update_is_found() -> None:
    result = _two(with_lock=False)
    assert list(result.violations) == ["lost"]
    # Four steps each, the first one is the start: every order of two and two, less the common states.
    assert result.ends == 2


def test_a_lock_prevents_it() -> None:
    assert _two(with_lock=True).violations == {}


def test_locks_in_different_orders_are_found() -> None:
    assert list(_two(with_lock=True, is_inverted=True).violations) == ["deadlock"]


def test_switches_bound_the_search() -> None:
    bounded = explore(lambda: _Two(with_lock=False), switches=0)
    assert bounded.violations == {}
    assert list(explore(lambda: _Two(with_lock=False), switches=1).violations) == ["lost"]


def test_a_latch_that_no_thread_sets_is_a_deadlock() -> None:
    class Waiting(World):
        def __init__(self) -> None:
            super().__init__()
            self.spawn(Latch(self).wait(), "a")

        def check_end(self) -> None:
            if not self.threads["a"].is_done:
                raise Violation("deadlock")

    assert list(explore(Waiting).violations) == ["deadlock"]
