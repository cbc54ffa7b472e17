"""The output of programs that tests run, on a machine that may be busy."""

from __future__ import annotations

__all__ = ["is_busy_warning", "without_busy_warnings"]


def is_busy_warning(line: str) -> bool:
    """Whether a stub says that other programs, or threads, delay its timer thread."""
    return "the timer thread ran " in line


def without_busy_warnings(text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if not is_busy_warning(line))
