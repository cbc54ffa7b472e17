"""The scenarios: the calls of some threads, and the events of the runtime, the plugin and the clock meanwhile."""

from __future__ import annotations

import itertools

__all__ = ["COARSE", "FINE", "LARGE", "LARGE_LIMIT", "LONG", "Scenario"]


class Scenario:
    """The calls of the application, and the number of faults of the runtime and the clock."""

    def __init__(
        self,
        *threads: str,
        losses: int = 0,
        on_close: str = "",
        configure: str = "",
        expiries: int = 0,
    ) -> None:
        """Each of ``threads`` makes some calls, one after the other: ``"start stop"``.

        ``losses`` and ``expiries`` are how often, at most, the runtime goes away, and the time of a start is over.
        ``on_close`` and the handler ``configure`` make calls, too; or the handler does ``"raise"``.
        """
        self.threads = threads
        self.losses = losses
        self.on_close = on_close
        self.configure = configure
        self.expiries = expiries

    def __str__(self) -> str:
        extras = [
            f"{name}: {value}" for name, value in vars(self).items() if value and name != "threads"
        ]
        return ", ".join([" | ".join(self.threads), *extras])


#: Each access to shared data is a step.
FINE = (
    Scenario("start stop start", losses=1),
    Scenario("start", "stop"),
    Scenario("start", "stop", losses=1),
    Scenario("start stop", "stop"),
    Scenario("start", "start"),
    Scenario("start wait", "start"),
    Scenario("start wait", losses=1, on_close="start"),
    Scenario("start", expiries=1),
    Scenario("start", losses=1, expiries=1),
    Scenario("start", configure="stop"),
    Scenario("start wait", losses=1, configure="stop wait"),
    Scenario("start stop", losses=1, configure="raise"),
)

#: Each method of the lifecycle, and each look at the connections, is a step.
COARSE = (
    Scenario("start stop", "start"),
    Scenario("start", "stop", losses=1, on_close="start"),
    Scenario("start", "stop", "wait"),
    Scenario("start wait", "stop", losses=1),
    Scenario("start", "stop", configure="stop"),
    Scenario("start start", "stop", losses=1),
)

#: Up to four threads of one call each, in coarse steps.
LONG = (
    *(
        Scenario(*calls)
        for number in (1, 2, 3, 4)
        for calls in itertools.combinations_with_replacement(("start", "stop", "wait"), number)
        if "start" in calls and (number < 4 or calls.count("start") == 1)
    ),
    Scenario("start", "stop", "stop", losses=1, on_close="start"),
    Scenario("start", "stop", "wait", losses=1, on_close="start"),
    Scenario("start", "wait", "wait", losses=1, on_close="start"),
    Scenario("start", "start", "stop", "wait"),
)

#: Scenarios with more states than a test can visit: the search ends after LARGE_LIMIT states.
LARGE = (
    Scenario("start", "start", "stop", "stop"),
    Scenario("start", "start", "start", "stop"),
    Scenario("start", "start", "stop", losses=1, on_close="start"),
)
LARGE_LIMIT = 30_000
