"""Checks that the environment ``lowest`` has the oldest releases that setup.cfg allows.

    python tools/check_lowest.py [constraints file]

Compares the lower bounds in setup.cfg, the versions in the constraints file, and the installed releases. tox runs
it in that environment before the tests, because the tests would also pass with newer releases.
"""

from __future__ import annotations

import configparser
import re
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

__all__ = ["bounds", "differences", "main", "pins"]

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "tools" / "lowest.txt"

# The extra for the tests. It includes other extras as nri_sync[...].
_EXTRA = "test"
_REQUIREMENT = re.compile(r"([\w.-]+)(?:\[([\w,-]+)\])?\s*(?:(>=|==)\s*([\w.]+))?\s*(?:;.*)?")


def _lines(text: str) -> list[str]:
    stripped = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in stripped if line]


def bounds(setup_cfg: str) -> dict[str, str]:
    """The lower bound of each requirement of the package and of its extra ``test``, by name.

    Raises ValueError for a requirement without a lower bound.
    """
    config = configparser.ConfigParser()
    config.read_string(setup_cfg)
    extras = config["options.extras_require"]
    found: dict[str, str] = {}
    waiting = [*_lines(config["options"]["install_requires"]), *_lines(extras[_EXTRA])]
    while waiting:
        requirement = waiting.pop()
        match = _REQUIREMENT.fullmatch(requirement)
        if match is None:
            raise ValueError(f"setup.cfg: {requirement!r} cannot be parsed")
        name, extra, operator, version = match.groups()
        if name == "nri_sync":
            waiting += [line for item in extra.split(",") for line in _lines(extras[item])]
        elif operator != ">=":
            raise ValueError(f"setup.cfg: {requirement!r} has no lower bound")
        else:
            found[_normal(name)] = version
    return found


def pins(constraints: str) -> dict[str, str]:
    """The version of each line ``name==version``, by name."""
    return {
        _normal(name): version
        for name, _, version in (line.partition("==") for line in _lines(constraints))
    }


def differences(
    lower: dict[str, str], pinned: dict[str, str], installed: dict[str, str | None]
) -> Iterable[str]:
    """A line for each package for which the three sources differ."""
    for name in sorted(lower.keys() | pinned.keys()):
        versions = lower.get(name), pinned.get(name), installed.get(name)
        if None in versions or len({_release(version or "") for version in versions}) != 1:
            bound, pin, release = versions
            yield (
                f"{name}: setup.cfg allows {bound or 'nothing'}, {CONSTRAINTS.name} has {pin or 'nothing'}, "
                f"{release or 'nothing'} is installed"
            )


def _normal(name: str) -> str:
    """A package's name in the form in which PEP 503 compares names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _release(version: str) -> tuple[str, ...]:
    """A version in a form in which 4.25 and 4.25.0 are equal, as in PEP 440."""
    parts = version.split(".")
    while parts and parts[-1] == "0":
        parts.pop()
    return tuple(parts)


def _installed(names: Iterable[str]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def main(args: list[str]) -> int:
    """Print the differences; return 1 if there are any."""
    pinned = pins(Path(args[0] if args else CONSTRAINTS).read_text())
    lower = bounds((ROOT / "setup.cfg").read_text())
    found = list(differences(lower, pinned, _installed(lower.keys() | pinned.keys())))
    for line in found:
        print(f"check_lowest: {line}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
