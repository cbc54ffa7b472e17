"""The log stays bounded, however many lines others cause, and no line is left out without being counted."""

from __future__ import annotations

import io
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from nri_sync import flood
from nri_sync.flood import AT_ONCE, Allowance, Records, records
from nri_sync.logger import PrefixedLogger, get_logger
from tests.net.rig import LONG, in_thread

__all__: list[str] = []


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    records.reset()
    return now


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {record.getMessage()}")


@pytest.fixture
def log() -> Iterator[Lines]:
    """The records of the loggers below nri_sync.flooded."""
    handler = Lines()
    logger = logging.getLogger("nri_sync.flooded")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)


LOGGER = get_logger("nri_sync.flooded")
ADAPTER = PrefixedLogger(logging.getLogger("nri_sync.flooded.given"), "10-a")
BEGUN = (
    f"WARNING over {AT_ONCE} records at once like '%s': from now on most of them are left out, and "
    "counted"
)


class TestAllowance:
    def test_many_at_once_and_few_over_time(self, clock: list[float]) -> None:
        allowance = Allowance(10, 2.0)
        assert [allowance.take() for _ in range(15)] == [True] * 10 + [False] * 5
        clock[0] += 1.0
        assert [allowance.take() for _ in range(3)] == [True, True, False]
        assert (allowance.take_left_out(), allowance.take_left_out()) == (6, 0)
        clock[0] += 1000.0
        assert allowance.is_full()
        assert sum(allowance.take() for _ in range(100)) == 10


class TestRecords:
    @pytest.mark.parametrize("logger", [LOGGER, ADAPTER])
    def test_a_flood(
        self, logger: logging.Logger | PrefixedLogger, clock: list[float], log: Lines
    ) -> None:
        prefix = "" if logger is LOGGER else "10-a: "
        begun = BEGUN.replace("'%s'", f"'{prefix}%s'")
        for number in range(AT_ONCE + 500):
            logger.warning("%s", number)
        assert log.lines == [f"WARNING {prefix}{n}" for n in range(AT_ONCE)] + [begun]
        log.lines.clear()
        # One a second, however many come.
        for _ in range(3):
            clock[0] += 1.0
            for _ in range(100):
                logger.warning("%s", "more")
        counted = "WARNING {} more records like '{}%s' are left out: more than 1 a second"
        assert log.lines == [
            counted.format(500, prefix), f"WARNING {prefix}more",
            counted.format(99, prefix), f"WARNING {prefix}more",
            counted.format(99, prefix), f"WARNING {prefix}more",
        ]  # fmt: skip
        log.lines.clear()
        records.log_left_out()
        assert log.lines == [counted.format(99, prefix)]
        log.lines.clear()
        # After a pause the next flood is announced again.
        clock[0] += AT_ONCE
        for _ in range(AT_ONCE + 2):
            logger.warning("%s", "again")
        assert log.lines[-2:] == [f"WARNING {prefix}again", begun]

    def test_another_record_brings_the_number(self, clock: list[float], log: Lines) -> None:
        for _ in range(AT_ONCE + 3):
            LOGGER.info("%s", "a")
        log.lines.clear()
        LOGGER.info("not yet")
        assert log.lines == ["INFO not yet"]
        clock[0] += 1.0
        LOGGER.info("now")
        assert log.lines[1:] == [
            "WARNING 3 more records like '%s' are left out: more than 1 a second",
            "INFO now",
        ]
        # The number took the place of a record.
        LOGGER.info("%s", "a")
        assert len(log.lines) == 3

    def test_several_kinds_at_once_are_bounded(self, clock: list[float], log: Lines) -> None:
        texts = [f"{number}: %s" for number in range(50)]
        for text in texts:
            for _ in range(AT_ONCE + 1):
                LOGGER.info(text, "a")
        log.lines.clear()
        for _ in range(10):
            clock[0] += 1.0
            for _ in range(5):
                for text in texts:
                    LOGGER.info(text, "a")
        assert len(log.lines) <= 2 * 10 * len(texts)

    def test_debug_is_the_choice_of_the_user(self, log: Lines) -> None:
        for _ in range(AT_ONCE + 10):
            LOGGER.debug("%s", "a")
        assert len(log.lines) == AT_ONCE + 10

    def test_a_program_reads_all(self, log: Lines) -> None:
        with records.unlimited():
            for _ in range(AT_ONCE + 10):
                LOGGER.info("%s", "a")
        assert len(log.lines) == AT_ONCE + 10

    def test_the_number_of_kinds_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(flood, "KINDS_MAX", 10)
        mine = Records()
        for number in range(50):
            assert mine.admit(LOGGER, f"text {number}")
        assert len(mine) == 11

    def test_every_record_is_logged_or_counted(self, log: Lines) -> None:
        each, count = 2000, 4

        def flood_it() -> None:
            for _ in range(each):
                LOGGER.info("%s", "a")

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            threads = [in_thread(flood_it) for _ in range(count)]
            for thread in threads:
                thread.join(LONG)
        finally:
            sys.setswitchinterval(interval)
        records.log_left_out()
        logged = log.lines.count("INFO a")
        counted = [int(line.split()[1]) for line in log.lines if "are left out: more" in line]
        assert logged + sum(counted) == each * count
        assert logged < AT_ONCE + LONG

    def test_a_signal_handler_logs(self, log: Lines) -> None:
        # Re-entrant: the handler interrupts the thread that has the lock.
        before = signal.signal(signal.SIGALRM, lambda *_: LOGGER.info("%s", "signal"))
        try:
            with records._lock:
                signal.raise_signal(signal.SIGALRM)
        finally:
            signal.signal(signal.SIGALRM, before)
        assert log.lines == ["INFO signal"]

    def test_a_lock_that_stays_taken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(flood, "PATIENCE", 0.01)
        mine = Records()
        taken, go_on = threading.Event(), threading.Event()

        def take() -> None:
            with mine._lock:
                taken.set()
                assert go_on.wait(LONG)

        thread = in_thread(take)
        assert taken.wait(LONG)
        assert mine.admit(LOGGER, "text")
        # As in a forked child, which does not have the thread.
        mine.reset()
        go_on.set()
        thread.join(LONG)
        assert mine.admit(LOGGER, "text")

    def test_the_end_of_the_process_brings_the_number(self) -> None:
        code = (
            "import logging, time; logging.basicConfig(level='INFO')\n"
            "from nri_sync.logger import get_logger\n"
            # A second more, on a busy machine, would let one more record pass.
            "time.monotonic = lambda: 1000.0\n"
            "for _ in range(1100): get_logger('nri_sync.x').info('%s', 'a')\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=LONG,
            env=os.environ,
        )
        lines = done.stderr.splitlines()
        assert len(lines) == AT_ONCE + 2
        assert lines[-1].endswith("100 more records like '%s' are left out: more than 1 a second")


def test_a_long_traceback_loses_its_middle() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    LOGGER.addHandler(handler)
    try:
        raise ValueError("x" * 5_000_000)
    except ValueError:
        LOGGER.exception("failed")
    finally:
        LOGGER.removeHandler(handler)
    text = stream.getvalue()
    assert len(text) < 17_000
    assert "test_a_long_traceback_loses_its_middle" in text
    assert "characters)" in text
