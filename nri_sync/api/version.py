"""NRI releases, and the NRI release of a runtime.

Since v0.12.0 the Configure request has the runtime's NRI release. Older runtimes, containerd up to 2.2 and CRI-O
up to 1.35, send only their own release in that request, which implies the NRI release.
"""

from __future__ import annotations

import bisect
import re
from typing import NamedTuple

from nri_sync.api import _check

__all__ = ["NRI_VERSION", "Version", "infer_nri_version", "runtime_nri_version"]

#: The NRI release whose protocol this package implements; RegisterPlugin sends it to the runtime.
NRI_VERSION = "v0.12.5"

# The NRI versions that a runtime sends if its build has no release.
_NO_VERSION = frozenset({"", "(devel)", "0.0.0-unknown"})

# Far above the length of any real version. It bounds the time to parse the text of a peer.
_LONGEST = 256

# ``1:`` is the epoch of a package. Packagers, git and semver append the rest.
_VERSION = re.compile(
    r"(?:[0-9]+:)?[vV]?(?P<core>(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*)){0,2})"
    r"(?P<rest>(?![0-9])[!-~]*)"
)
# Debian's notation for a return to an older version: "2.1.0+really1.7.24" is 1.7.24.
_REALLY = re.compile(r"\+really(?=[0-9])")
# The words at the beginning of the rest that mean a pre-release. RPM releases put a number before the word that
# begins with 0. "~git" is Debian's notation for a snapshot before a release. Compiled by the first use, as most
# versions have no rest.
_PRE = (
    r"[-.~^_]*(?:0[.-](?:[0-9]+[.-])?)?"
    r"(?:(?:alpha|beta|rc|pre|preview|prerelease|dev|devel|development"
    r"|nightly|daily|snapshot|canary|unstable)(?![a-z])|(?<=~)git(?![a-z]))"
)
# Go's notation for a commit without a tag: it has the next tag.
_PSEUDO = r"(?:-|-.*\.)(?:0\.)?[0-9]{14}-[0-9a-f]{12}(?:\+.*)?"

# An identifier of a pre-release: numbers sort before texts.
_Identifier = tuple[int, int, str]


class Version(NamedTuple):
    """A version of a runtime or of NRI. Versions compare by age.

    ``released`` is False for a pre-release, which sorts before its release.
    """

    major: int
    minor: int
    patch: int
    released: bool = True
    pre: tuple[_Identifier, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Version:
        """Read a version, with or without a leading v or an epoch (``1:``).

        ``2`` and ``2.1`` mean 2.0.0 and 2.1.0. The text after the numbers comes from a packager and is ignored,
        for example ``-0ubuntu1~24.04.1``, ``~ds1``, ``-k3s1``, ``+bottlerocket``, ``-2.rhaos4.21.git1234.el9``, or
        ``-225-ge9dc15b7a.m`` of ``git describe``. The version is a pre-release only if this text begins with a
        word such as alpha, beta, rc, dev or nightly, or if it is that of a Go pseudo-version. Raises ValueError
        for a text that is not a version.
        """
        match = _VERSION.fullmatch(_REALLY.split(text)[-1]) if len(text) <= _LONGEST else None
        if match is None:
            raise _no_version(text)
        core, rest = match["core"].split("."), match["rest"]
        # One number with letters is not a version, because a git hash may begin with digits. A number that begins
        # with 0 is not part of the core.
        if len(core) < 3 and (rest[:1] == "." or (rest and len(core) == 1)):
            raise _no_version(text)
        major, minor, patch = map(int, core + ["0"] * (3 - len(core)))
        if rest and (re.match(_PRE, rest.lower()) or re.fullmatch(_PSEUDO, rest)):
            return cls(major, minor, patch, False, _identifiers(rest.partition("+")[0]))
        return cls(major, minor, patch)


def _no_version(text: str) -> ValueError:
    return ValueError(f"{_check.show(text)} is not a version such as 'v2.1.0'")


def _identifiers(pre: str) -> tuple[_Identifier, ...]:
    parts = re.findall(r"[0-9]+|[A-Za-z]+", pre)
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part.lower()) for part in parts)


# The first release of a runtime with each NRI release, from the Go module files of the runtimes. A build between
# two entries has the NRI release of the earlier entry.
_APRIL_2023 = "v0.3.1-0.20230504231226-94185418e253"
_FEBRUARY_2025 = "v0.9.1-0.20250219030224-e597e7849f24"
_RUNTIMES = {
    "containerd": (
        ("1.7.0-beta.1", "v0.2.0"),
        ("1.7.0-rc.0", "v0.3.0"),
        ("1.7.7", "v0.4.0"),
        ("1.7.14", "v0.6.0"),
        ("1.7.16", "v0.6.1"),
        ("1.7.26", "v0.8.0"),
        ("2.0.0-beta.0", "v0.5.0"),
        ("2.0.0-rc.0", "v0.6.0"),
        ("2.0.0-rc.1", "v0.6.1"),
        ("2.0.0-rc.6", "v0.7.0"),
        ("2.0.0", "v0.8.0"),
        ("2.2.0-beta.0", "v0.10.0"),
        ("2.2.1", "v0.11.0"),
        ("2.3.0", "v0.12.0"),
        ("2.4.0", "v0.12.3"),
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
        # 1.34.0 still has this release: it refuses the events of v0.10. The reference's table is wrong here.
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
    """The NRI release of a release of ``"containerd"`` or ``"cri-o"``.

    None for another runtime, for a release without NRI, and for a text that is not a version.
    """
    if runtime_name not in _FLOORS:
        return None
    firsts, releases = _FLOORS[runtime_name]
    try:
        position = bisect.bisect_right(firsts, Version.parse(runtime_version))
    except ValueError:
        return None
    return releases[position - 1] if position else None


def runtime_nri_version(nri_version: str, runtime_name: str, runtime_version: str) -> str | None:
    """The NRI release of a runtime: ``nri_version``, or the inferred release if ``nri_version`` is no release.

    The arguments are the fields of the Configure request.
    """
    if nri_version in _NO_VERSION:
        return infer_nri_version(runtime_name, runtime_version)
    return nri_version
