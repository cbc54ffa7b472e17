"""The line counts in docs/before-and-after.md are those of its code."""

from __future__ import annotations

import re
from pathlib import Path

__all__: list[str] = []

PAGE = Path(__file__).resolve().parents[2] / "docs" / "before-and-after.md"


def test_the_numbers_of_the_page() -> None:
    page = PAGE.read_text()
    blocks = re.findall(r"^```python[^\n]*\n(.*?)^```$", page, re.M | re.S)
    lines = {
        block.split("\n")[0]: sum(bool(line.strip()) for line in block.splitlines())
        for block in blocks
    }
    kept_alive = lines["class KeptAlive:"]
    after = [
        lines["class Driver:"] + kept_alive,
        lines["inventory = kit.Inventory()"] + kept_alive,
        kept_alive,
        lines["plugin = CABundles()"],
    ]
    table = re.findall(r"^\| \[.*\| (\d+) \| (\d+) \|$", page, re.M)
    assert [int(row[1]) for row in table] == after
    # The numbers in the second table add up to the first table's lines before.
    names = re.findall(r"^\| \[(\S+)\]", page, re.M)
    for name, (before, _) in zip(names, table):
        rows = re.findall(rf"^\| {name}, `[^`]*` \| (.*) \|$", page, re.M)
        counted = [int(n) for row in rows for n in re.findall(r"\b\d+\b", row.split(";")[0])]
        assert sum(counted) == int(before), name
