"""NRI releases, and which one a runtime speaks.

Only since v0.12.0 does a runtime tell its NRI release. For the others it follows from the
runtime's own, which is in the Configure request: containerd up to 2.2 and CRI-O up to 1.35.
"""

from __future__ import annotations

import bisect
import re
from typing import NamedTuple

__all__ = ["NRI_VERSION", "Version", "infer_nri_version", "runtime_nri_version"]

#: The NRI release whose protocol this package implements, as it is told to the runtime.
NRI_VERSION = "v0.12.5"

# What a runtime sends that was built without a release of its own.
_NO_VERSION = frozenset({"", "(devel)", "0.0.0-unknown"})

_SEMVER = re.compile(
    r"v?(?P<core>(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*)){0,2})"
    r"(?:-(?P<pre>[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?"
    r"(?P<build>\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?"
)
# What `git describe` appends to the newest tag: so many commits after it, not a pre-release.
_DESCRIBED = re.compile(r"([0-9]+)-g([0-9a-fA-F]+)(\..*)?")

# An identifier of a pre-release: numbers sort before texts.
_Identifier = tuple[int, int, str]


class Version(NamedTuple):
    """A semantic version, which compares as such.

    ``released`` is False for a pre-release, which sorts before its release.
    """

    major: int
    minor: int
    patch: int
    released: bool = True
    pre: tuple[_Identifier, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Version:
        """Read a version, with or without a leading v.

        ``2`` and ``2.1`` mean 2.0.0 and 2.1.0. Build metadata (``+...``) does not count, and
        neither does what ``git describe`` appends, ``-225-ge9dc15b7a.m``. Raises ValueError.
        """
        match = _SEMVER.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not a version such as 'v2.1.0'")
        core, pre, build = match["core"].split("."), match["pre"], match["build"]
        if len(core) < 3 and (pre or build):
            raise ValueError(f"{text!r} has a pre-release or build, so it needs three numbers")
        # Go leaves the suffix in place when build metadata follows; then it is a pre-release.
        if pre and not build and _is_described(pre):
            pre = None
        major, minor, patch = map(int, core + ["0"] * (3 - len(core)))
        if pre is None:
            return cls(major, minor, patch)
        return cls(major, minor, patch, False, tuple(_identifier(p, text) for p in pre.split(".")))


def _is_described(pre: str) -> bool:
    match = _DESCRIBED.fullmatch(pre)
    # Go reads both as 64-bit numbers.
    return match is not None and int(match[1]) < 2**64 and int(match[2], 16) < 2**64


def _identifier(part: str, text: str) -> _Identifier:
    if not part.isdigit():
        return (1, 0, part)
    if part != "0" and part.startswith("0"):
        raise ValueError(f"{text!r} has a pre-release number with a leading zero")
    return (0, int(part), "")


# From which release of a runtime on which NRI release is in it. Builds in between have the one
# before. The pseudo versions are those that CRI-O's own module file names.
_APRIL_2023 = "v0.3.1-0.20230504231226-94185418e253"
_FEBRUARY_2025 = "v0.9.1-0.20250219030224-e597e7849f24"
_RUNTIMES = {
    "containerd": (
        ("1.7.0", "v0.3.0"),
        ("1.7.7", "v0.4.0"),
        ("1.7.14", "v0.6.0"),
        ("1.7.16", "v0.6.1"),
        ("1.7.26", "v0.8.0"),
        ("2.2.0", "v0.10.0"),
        ("2.2.1", "v0.11.0"),
    ),
    "cri-o": (
        ("1.26.0", "v0.2.0"),
        ("1.26.2", "v0.3.0"),
        ("1.26.4", _APRIL_2023),
        ("1.27.0", "v0.3.0"),
        ("1.27.1", _APRIL_2023),
        ("1.29.0", "v0.5.0"),
        ("1.29.2", "v0.6.0"),
        ("1.31.0", "v0.6.1"),
        ("1.32.0", "v0.9.0"),
        # 1.34.0 still has it, whatever the reference's own table says: it refuses the events of v0.10.
        ("1.33.0", _FEBRUARY_2025),
        ("1.34.1", "v0.10.0"),
        ("1.35.0", "v0.11.0"),
    ),
}
_FLOORS = {
    runtime: ([Version.parse(first) for first, _ in table], [nri for _, nri in table])
    for runtime, table in _RUNTIMES.items()
}


def infer_nri_version(runtime_name: str, runtime_version: str) -> str | None:
    """The NRI release that is in a release of ``"containerd"`` or ``"cri-o"``.

    None for another runtime, for one that is too old to have NRI, and for what is no version.
    """
    if runtime_name not in _FLOORS:
        return None
    firsts, releases = _FLOORS[runtime_name]
    try:
        position = bisect.bisect_right(firsts, Version.parse(runtime_version))
    except ValueError:
        return None
    return releases[position - 1] if position else None


def runtime_nri_version(told: str, runtime_name: str, runtime_version: str) -> str | None:
    """The runtime's NRI release: what it tells, or what can be inferred if it tells nothing.

    The arguments are those of the Configure request.
    """
    return infer_nri_version(runtime_name, runtime_version) if told in _NO_VERSION else told
