"""Every example is complete, and in the index."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

__all__: list[str] = []

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FOLDERS = sorted(path.parent.name for path in EXAMPLES.glob("*/plugin.py"))
# To read and to run by hand.
WITHOUT_POD = {"first_plugin"}
NOT_PLUGINS = ["shim"]
# It reads two formats of files, and names the first mistake in each: a wrong type must not fail a container later.
LONGER = {"hook_injector": 280}


@pytest.mark.parametrize("folder", FOLDERS)
def test_an_example_is_complete(folder: str) -> None:
    where = EXAMPLES / folder
    assert (where / "README.md").is_file()
    assert (where / "pod.yaml").is_file() is (folder not in WITHOUT_POD)
    # A reader understands the example before copying it. The definition of the program takes about ten lines.
    longest = LONGER.get(folder, 230)
    assert len((where / "plugin.py").read_text().splitlines()) <= longest


def test_the_index_links_to_each_example_folder() -> None:
    links = re.findall(r"\]\((\w+)/README\.md\)", (EXAMPLES / "README.md").read_text())
    assert sorted(set(links)) == sorted([*FOLDERS, *NOT_PLUGINS])


@pytest.mark.parametrize(
    "page", sorted(EXAMPLES.glob("**/README.md")), ids=lambda page: page.parent.name
)
def test_links(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / link).exists(), link
