"""A newcomer can follow the tutorial, which shows the output of its commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import walk_tutorial

__all__: list[str] = []

# Whole programs run, which take their time on a busy machine.
pytestmark = pytest.mark.timeout(300)


def test_the_pages_are_current(tmp_path: Path) -> None:
    walk = walk_tutorial.Walk(tmp_path)
    for page in walk_tutorial.PAGES:
        walk.page(page.read_text(encoding="utf-8"))
    different = "\n".join(walk.differences)
    assert not different, f"run: python -m tools.walk_tutorial\n{different}"
    # The walk has run the tests of the tutorial, and the simulation.
    assert (tmp_path / "timezone" / "pods.yaml").is_file()


@pytest.mark.parametrize("written", ["other\n", "", "exit code 1\n"])
def test_another_output_is_noticed(tmp_path: Path, written: str) -> None:
    walk = walk_tutorial.Walk(tmp_path)
    page = f"```console walk\n$ echo printed\n{written}```"
    assert walk.page(page) == "```console walk\n$ echo printed\nprinted\n```"
    [difference] = walk.differences
    assert difference.startswith("$ echo printed\nprinted\n")


def test_an_output_by_hand_has_to_match(tmp_path: Path) -> None:
    walk = walk_tutorial.Walk(tmp_path)
    page = "```console walk\n$ echo one two\none ...\n$ false\nexit code 1\n```"
    assert walk.page(page) == page
    assert walk.differences == []


def test_a_file_is_written(tmp_path: Path) -> None:
    walk = walk_tutorial.Walk(tmp_path)
    walk.page("```yaml file=a.yaml\na: 1\n```\n\n```console walk\n$ cat a.yaml\na: 1\n```")
    assert walk.differences == []
