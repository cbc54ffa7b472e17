"""A strict reader of Prometheus's text format, version 0.0.4, to check what the kit writes."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

__all__ = ["Family", "read"]

_SAMPLE = re.compile(
    r"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)", re.DOTALL
)
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"(?:,|$)')
_SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("", "_sum", "_count")}


class Family(NamedTuple):
    """A metric as it was read; samples by name and labels."""

    kind: str
    help: str
    samples: dict[tuple[str, frozenset[tuple[str, str]]], float]

    def value(self, suffix: str = "", **labels: str) -> float:
        """The value of the one sample with these labels."""
        (found,) = (
            value
            for (name, its), value in self.samples.items()
            if name.endswith(suffix) and its == frozenset(labels.items())
        )
        return found


def read(text: str) -> dict[str, Family]:
    """The metrics of a text; AssertionError for anything that the format does not allow."""
    assert not text or text.endswith("\n")
    families: dict[str, Family] = {}
    about = ""
    name = ""
    for line in text.split("\n")[:-1]:
        if line.startswith("# HELP "):
            name, _, about = line[len("# HELP ") :].partition(" ")
            assert name not in families, f"{name} comes twice"
            assert re.fullmatch(r"(?:[^\\\n]|\\\\|\\n)*", about)
        elif line.startswith("# TYPE "):
            typed, kind = line[len("# TYPE ") :].split(" ")
            assert typed == name
            assert kind in ("counter", "gauge", "histogram", "summary", "untyped")
            families[name] = Family(kind, about, {})
        else:
            _read_sample(line, name, families[name])
    for name, family in families.items():
        assert family.samples, f"{name} has no samples"
        if family.kind == "counter":
            assert name.endswith("_total")
            assert all(value >= 0 for value in family.samples.values())
        if family.kind == "histogram":
            _check_histogram(family)
    return families


def _read_sample(line: str, name: str, family: Family) -> None:
    match = _SAMPLE.fullmatch(line)
    assert match, f"no sample: {line!r}"
    allowed = _SUFFIXES.get(family.kind, ("",))
    assert match["name"] in [name + suffix for suffix in allowed], f"{line!r} below {name}"
    labels: dict[str, str] = {}
    rest = match["labels"] or ""
    while rest:
        label = _LABEL.match(rest)
        assert label, f"no label: {rest!r} in {line!r}"
        assert label[1] not in labels
        labels[label[1]] = re.sub(
            r"\\(.)", lambda found: {"n": "\n"}.get(found[1], found[1]), label[2]
        )
        rest = rest[label.end() :]
    key = match["name"], frozenset(labels.items())
    assert key not in family.samples, f"{line!r} comes twice"
    family.samples[key] = float(match["value"])


def _check_histogram(family: Family) -> None:
    series: dict[frozenset[tuple[str, str]], list[tuple[float, float]]] = {}
    for (name, labels), value in family.samples.items():
        if name.endswith("_bucket"):
            bound = float(dict(labels)["le"])
            key = frozenset(label for label in labels if label[0] != "le")
            series.setdefault(key, []).append((bound, value))
    for labels, buckets in series.items():
        counts = [count for _, count in sorted(buckets)]
        assert counts == sorted(counts), "the buckets of a histogram are cumulative"
        assert max(buckets)[0] == math.inf
        assert counts[-1] == family.value("_count", **dict(labels))
        assert family.value("_sum", **dict(labels)) >= 0
