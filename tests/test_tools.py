"""What the tools behind `make test` work out by themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import ensure_go, run_tox

__all__: list[str] = []


def test_a_report_is_counted(tmp_path: Path) -> None:
    report = tmp_path / "junit.xml"
    suite = '<testsuite tests="9" failures="2" errors="1" skipped="4"/>'
    report.write_text(f"<testsuites>{suite}</testsuites>")
    assert run_tox.count(report) == {"passed": 2, "failed": 3, "skipped": 4}


def test_interpreters_are_those_of_python_3(tmp_path: Path) -> None:
    for version in ("2.7.18", "3.9.18", "3.13.0"):
        (tmp_path / "versions" / version / "bin").mkdir(parents=True)
    found = [Path(path).parent.name for path in run_tox.interpreters(tmp_path)]
    assert found == ["3.13.0", "3.9.18"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("go1.26.6\n", (1, 26, 6)), ("go1.24\n", (1, 24)), ("go1.25rc1\n", (1, 25)), ("", None)],
)
def test_versions_of_go_compare_as_numbers(text: str, expected: tuple[int, ...] | None) -> None:
    assert ensure_go.version(text, r"^go([\d.]+)") == expected


def test_a_peer_asks_for_a_go() -> None:
    assert ensure_go.needed() >= (1, 24)
