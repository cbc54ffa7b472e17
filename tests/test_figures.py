"""The figures of the documentation are current and complete."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from nri_sync.plugin.state import TRANSITIONS, State
from tests.test_layering import LAYERS
from tools import figures
from tools.record_cli import same

__all__: list[str] = []

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def drawn() -> dict[str, str]:
    return figures.draw()


@pytest.mark.parametrize("name", ["lifecycle", "layers", "request", "simulate", "demo"])
def test_the_figures_are_current(name: str, drawn: dict[str, str]) -> None:
    path = figures.DIRECTORY / f"{name}.svg"
    different = same(path.read_text(encoding="utf-8"), drawn[name])
    assert not different, "run: python -m tools.figures\n" + "\n".join(different)


def test_there_is_no_other_figure(drawn: dict[str, str]) -> None:
    assert {path.stem for path in figures.DIRECTORY.iterdir()} == set(drawn)


def test_the_figures_are_xml(drawn: dict[str, str]) -> None:
    for svg in drawn.values():
        ET.fromstring(svg)


def test_the_lifecycle_has_all_states_and_moves() -> None:
    svg = figures.lifecycle()
    for state in State:
        assert f">{state.name}</text>" in svg
    assert svg.count("marker-end='url(#a)'") == len(TRANSITIONS)


def test_the_layers_are_in_the_order_of_imports() -> None:
    height = {
        name: float(y)
        for y, names in re.findall(r" y='([\d.]+)'[^>]*font-weight[^>]*>([^<]*)<", figures.layers())
        for name in names.split(", ")
    }
    ranks = {name: rank for rank, names in enumerate(LAYERS) for name in names}
    assert height.keys() <= ranks.keys()
    packages = {
        path.name for path in (ROOT / "nri_sync").iterdir() if path.is_dir() and path.name[0] != "_"
    }
    assert packages <= height.keys()
    for one in height:
        for other in height:
            if height[one] < height[other]:
                assert ranks[one] >= ranks[other]


def test_a_terminal_shows_colours_and_escapes_text() -> None:
    svg = figures.terminal("A title", "\x1b[32m+\x1b[0m a < b\n\n\x1b[1mbold\x1b[0m\n")
    assert "<tspan fill='#7ee787'>+</tspan><tspan> a &lt; b</tspan>" in svg
    assert "<tspan font-weight='600'>bold</tspan>" in svg
