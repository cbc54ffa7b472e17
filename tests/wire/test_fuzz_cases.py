"""Replays the inputs that the fuzz targets start from or have found."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tests import fuzz
from tests.fuzz.__main__ import TARGETS

CASES = sorted((Path(fuzz.__file__).parent / "cases").glob("*/*"))


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_case(path: Path) -> None:
    target = importlib.import_module(f"tests.fuzz.fuzz_{path.parent.name}")
    target.one_input(path.read_bytes())


def test_every_target_has_cases() -> None:
    assert {path.parent.name for path in CASES} == set(TARGETS)
