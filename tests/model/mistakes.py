"""Mistakes in the lifecycle, made on purpose: the search has to find each."""

from __future__ import annotations

from tests.model.scenarios import Scenario

__all__ = ["MISTAKES", "SCENARIOS"]

SCENARIOS = {
    "one": Scenario("start stop start", losses=1),
    "stop": Scenario("start", "stop"),
    "stops": Scenario("start stop", "stop"),
    "starts": Scenario("start", "start"),
    "restart": Scenario("start stop", "start"),
    "wait": Scenario("start wait", "start"),
    "handler": Scenario("start", configure="stop"),
    "late": Scenario("start", expiries=1),
}

#: By the mistake: the scenario that shows it, the file, and pairs of the source and its replacement.
MISTAKES: dict[str, tuple[str, str, list[tuple[str, str]]]] = {
    "a move notifies no thread": (
        "restart",
        "lifecycle",
        [
            (
                "following(self.state, move)\n        self._changed.notify_all()",
                "following(self.state, move)",
            )
        ],
    ),
    "the state is checked before the lock is taken": (
        "starts",
        "lifecycle",
        [
            (
                "        with self._changed:\n            while (\n",
                "        is_idle = self.state is State.IDLE\n        with self._changed:\n            while (\n",
            ),
            ("            if self.state is not State.IDLE:", "            if not is_idle:"),
        ],
    ),
    "Configure is checked before the lock is taken": (
        "stop",
        "lifecycle",
        [
            (
                (
                    "        with self._changed:\n            if self.current is not attempt:\n"
                    "                return False\n            is_first = self.state is State.STARTING\n"
                ),
                (
                    "        if self.current is not attempt:\n            return False\n"
                    "        is_first = self.state is State.STARTING\n        with self._changed:\n"
                ),
            )
        ],
    ),
    "an attempt that was stopped begins": (
        "stop",
        "lifecycle",
        [
            (
                "if attempt.is_over:\n                return StubStopped",
                "if False:\n                return StubStopped",
            )
        ],
    ),
    "an attempt that is over gets a session": (
        "stop",
        "lifecycle",
        [
            (
                "if attempt.is_over:\n                return False\n            attempt.session",
                "attempt.session",
            )
        ],
    ),
    "a late failure ends a session": (
        "late",
        "lifecycle",
        [("or (attempt.is_configured and not started)", "")],
    ),
    "a stop counts as a loss": (
        "one",
        "lifecycle",
        [("            elif self.state is State.STARTED:\n", "            else:\n")],
    ),
    "an attempt without a session does not end": (
        "stop",
        "lifecycle",
        [
            (
                "            if attempt.session is None:\n                self._end_locked(attempt)\n",
                "",
            )
        ],
    ),
    "a second stop moves again": (
        "stops",
        "lifecycle",
        [("first = self.state is not State.STOPPING", "first = True")],
    ),
    "an attempt that waits ends the current one": (
        "starts",
        "lifecycle",
        [
            (
                "            if self.current is not attempt:\n                attempt.is_over",
                "            if self.current is None:\n                attempt.is_over",
            )
        ],
    ),
    "the attempt stays the current one": (
        "one",
        "lifecycle",
        [
            (
                "may start the next one.\n        self.current = None\n",
                "may start the next one.\n",
            )
        ],
    ),
    "no lock at the end": (
        "one",
        "lifecycle",
        [
            (
                "        with self._changed:\n            # A failure",
                "        if True:\n            # A failure",
            )
        ],
    ),
    "stop() is not released": (
        "one",
        "connection",
        [("        self.settled.set()\n        self.ended.set()", "        self.settled.set()")],
    ),
    "a refused session stays open": (
        "stop",
        "connection",
        [("            session.link.abandon()\n            return", "            return")],
    ),
    "on_close before the end": (
        "one",
        "connection",
        [
            (
                "        if self._lifecycle.ended(self.attempt, failed, lost):\n            self._conclude()",
                "        self._conclude()\n        self._lifecycle.ended(self.attempt, failed, lost)",
            )
        ],
    ),
    "on_close after each end": (
        "one",
        "connection",
        [("if is_lost and self._on_loss", "if self._on_loss")],
    ),
    "a start that stop() does not see": (
        "stop",
        "stub",
        [
            (
                "            self._conns[conn] = None\n            conn.start",
                "            conn.start",
            )
        ],
    ),
    "stop() in a handler waits for its answer": (
        "handler",
        "stub",
        [
            (
                "            if here not in conn.serving:\n                conn.ended",
                "            if True:\n                conn.ended",
            )
        ],
    ),
    "wait() takes any connection": (
        "wait",
        "stub",
        [
            (
                "            if conn.attempt is attempt:\n                return conn",
                "            return conn",
            )
        ],
    ),
}
