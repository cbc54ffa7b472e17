"""The table of docs/e2e.md: the proven features of each runtime, recorded by the tests themselves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

__all__ = ["RESULTS", "note", "write"]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "e2e.md"
BEGIN, END = "<!-- written by tests/e2e -->\n", "<!-- end -->\n"

#: For each feature, the worst outcome of its tests.
RESULTS = pytest.StashKey[dict[str, str]]()


def note(
    results: dict[str, str], feature: str, report: pytest.TestReport, proves: str = "yes"
) -> None:
    """Record the outcome of a test's phase for a feature. ``proves`` is the meaning of a passed test."""
    expected = getattr(report, "wasxfail", None)
    if report.failed:
        results[feature] = "no"
    elif expected is not None:
        results[feature] = expected
    elif report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else "skipped"
        results.setdefault(feature, reason.replace("Skipped: ", ""))
    elif report.when == "call" and results.get(feature) != "no":
        results[feature] = proves


def write(runtime: str, results: dict[str, str]) -> None:
    """Replace the column of a runtime; the columns of others stay."""
    head, _, rest = PAGE.read_text().partition(BEGIN)
    old, _, tail = rest.partition(END)
    columns: dict[str, dict[str, str]] = {}
    rows = [re.split(r" *\| *", line.strip())[1:-1] for line in old.splitlines() if line.strip()]
    for number, name in enumerate(rows[0][1:] if rows else (), 1):
        columns[name] = {row[0]: row[number] for row in rows[2:] if row[number]}
    columns[runtime] = results
    features = list(dict.fromkeys(feature for column in columns.values() for feature in column))
    lines = [["Feature", *columns], ["---"] * (len(columns) + 1)]
    for feature in features:
        lines.append([feature, *(column.get(feature, "") for column in columns.values())])
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    PAGE.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}")
