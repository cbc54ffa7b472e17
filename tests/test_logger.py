"""The loggers of nri_sync, with handlers and formatters that are not prepared for them."""

from __future__ import annotations

import io
import logging
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import nri_sync
from nri_sync.api import EventMask
from nri_sync.logger import PrefixedLogger, get_logger
from nri_sync.text import Lines
from tests.net.rig import LONG

__all__: list[str] = []

EVIL = "x\nFORGED \x1b[2J\x9b31m\u202e\u200b\udcff\0"
SHOWN = "x\\nFORGED \\x1b[2J\\x9b31m\\u202e\\u200b\\udcff\\x00"


@pytest.fixture
def printed() -> Iterator[io.StringIO]:
    """The output of a standard handler for ``nri_sync.test``."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(filename)s %(message)s"))
    logger = logging.getLogger("nri_sync.test")
    logger.addHandler(handler)
    try:
        yield stream
    finally:
        logger.removeHandler(handler)


LOGGER = get_logger("nri_sync.test")
ADAPTER = PrefixedLogger(logging.getLogger("nri_sync.test.given"), "10-a")


def test_texts_and_errors_are_one_line(printed: io.StringIO) -> None:
    LOGGER.warning("%s: %s", EVIL, ValueError(EVIL))
    assert printed.getvalue() == f"WARNING test_logger.py {SHOWN}: {SHOWN}\n"


def test_other_conversions(printed: io.StringIO) -> None:
    LOGGER.warning("%d %.1f %r %s %5s|", 5, 2.25, [EVIL], EventMask.parse("StopContainer"), "ab")
    assert printed.getvalue() == (f"WARNING test_logger.py 5 2.2 {[EVIL]!r} StopContainer    ab|\n")


def test_a_mapping(printed: io.StringIO) -> None:
    LOGGER.warning("%(pod)s", {"pod": EVIL})
    assert printed.getvalue() == f"WARNING test_logger.py {SHOWN}\n"


def test_long_texts_are_cut(printed: io.StringIO) -> None:
    LOGGER.warning("%s", "a" * 10_000_000)
    assert len(printed.getvalue()) < 1100


def test_lines_keep_their_line_feeds(printed: io.StringIO) -> None:
    LOGGER.warning("a:\n%s", Lines("b\n  c"))
    assert printed.getvalue() == "WARNING test_logger.py a:\nb\n  c\n"


def test_a_traceback_is_indented(printed: io.StringIO) -> None:
    try:
        raise ValueError(EVIL)
    except ValueError:
        LOGGER.exception("failed")
    first, *lines = printed.getvalue().rstrip("\n").split("\n")
    assert first == "ERROR test_logger.py failed"
    assert all(line.startswith("    ") for line in lines)
    assert lines[-1] == "    FORGED \\x1b[2J\\x9b31m\\u202e\\u200b\\udcff\\x00"


def test_values_that_cannot_be_shown(printed: io.StringIO) -> None:
    class Broken:
        def __str__(self) -> str:
            raise ZeroDivisionError

    LOGGER.warning("%s", Broken())
    assert "whose str() raises ZeroDivisionError" in printed.getvalue()


def test_a_logger_that_was_given(printed: io.StringIO) -> None:
    ADAPTER.warning("%s and %d", EVIL, 3)
    ADAPTER.log(logging.WARNING, "%s", EVIL)
    assert printed.getvalue() == (
        f"WARNING test_logger.py 10-a: {SHOWN} and 3\nWARNING test_logger.py 10-a: {SHOWN}\n"
    )


@pytest.mark.parametrize("logger", [LOGGER, ADAPTER])
def test_a_handler_that_raises(
    logger: logging.Logger | PrefixedLogger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its exception is reported, and does not reach the thread that logs."""

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise ZeroDivisionError(record.getMessage())

    reported: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: reported.append(str(args.exc_value)))
    broken = Broken()
    logging.getLogger("nri_sync.test").addHandler(broken)
    try:
        logger.warning("one")
    finally:
        logging.getLogger("nri_sync.test").removeHandler(broken)
    assert [text.removeprefix("10-a: ") for text in reported] == ["one"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_passes_on_the_main_thread(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(record: logging.LogRecord) -> bool:
        raise error

    reported: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: reported.append(args.exc_type))
    logger = get_logger("nri_sync.test.interrupted")
    logger.addFilter(interrupt)
    try:
        for log in (logger, PrefixedLogger(logger, "10-a")):
            with pytest.raises(error):
                log.warning("one")
            thread = threading.Thread(target=log.warning, args=("two",), daemon=True)
            thread.start()
            thread.join(LONG)
            assert not thread.is_alive()
    finally:
        logger.removeFilter(interrupt)
    assert reported == [error, error]


def test_every_logger_of_the_package_is_one_of_these() -> None:
    """Except loggers that the package adds handlers to, and does not log to."""
    own = re.compile(r"logging\.getLogger\(|LoggerAdapter\(")
    found = {
        path.name
        for path in Path(nri_sync.__file__).parent.rglob("*.py")
        if own.search(path.read_text("utf-8"))
    }
    # Handlers are added: to the root, to "nri_sync", and to the runtime's (by two).
    assert found == {"logger.py", "logs.py", "lifecycle.py", "runtime_view.py", "__init__.py"}
