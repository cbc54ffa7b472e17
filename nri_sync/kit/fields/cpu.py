"""CPU arithmetic: converts CPU requests and limits of Kubernetes to cgroup units and back, and parses CPU lists.

Kubernetes counts in thousandths of a CPU ("milli-CPU"). ``nri_sync.api.LinuxCPU`` has the shares of cgroup v1
(from a request), and quota and period in microseconds (from a limit). cgroup v2 has weights from 1 to 10000. Pure
functions. The kubelet's formulas are those of Kubernetes v1.36, ``pkg/kubelet/cm/helpers_linux.go``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from nri_sync.text import quoted

__all__ = [
    "DEFAULT_PERIOD",
    "MAX_SHARES",
    "MIN_QUOTA",
    "MIN_SHARES",
    "SHARES_PER_CPU",
    "format_cpus",
    "milli_to_quota",
    "milli_to_shares",
    "parse_cpus",
    "quota_to_milli",
    "shares_to_milli",
    "shares_to_weight",
    "weight_to_shares",
]

SHARES_PER_CPU = 1024
#: The least and the greatest number of shares that the kernel accepts.
MIN_SHARES, MAX_SHARES = 2, 262144
#: The kubelet's default period, and the least quota, in microseconds.
DEFAULT_PERIOD, MIN_QUOTA = 100_000, 1000

_MIN_WEIGHT, _MAX_WEIGHT = 1, 10000
# The kernel supports at most 8192 CPUs. A list with larger numbers is a mistake, and could exhaust the memory.
_MOST_CPUS = 65536


def milli_to_shares(milli: int) -> int:
    """Return the shares for a request in milli-CPU (``MilliCPUToShares`` of the kubelet)."""
    return max(MIN_SHARES, min(MAX_SHARES, milli * SHARES_PER_CPU // 1000))


def shares_to_milli(shares: int) -> int:
    """Return the request in milli-CPU for a number of shares, rounded up (``SharesToMilliCPU`` of the kubelet).

    ``shares_to_milli(milli_to_shares(m))`` is m, except for requests below 2 milli-CPU and for no request: they
    have the least shares, and those count as 2 milli-CPU.
    """
    return -(-shares * 1000 // SHARES_PER_CPU) if shares >= MIN_SHARES else 0


def milli_to_quota(milli: int, period: int = DEFAULT_PERIOD) -> int:
    """Return the quota in microseconds for a limit in milli-CPU (``MilliCPUToQuota`` of the kubelet).

    For no limit (0) the result is 0, with which the kubelet leaves the quota unset. The kernel's value for no
    limit is -1.
    """
    return max(MIN_QUOTA, milli * period // 1000) if milli else 0


def quota_to_milli(quota: int, period: int = DEFAULT_PERIOD) -> int:
    """Return the limit in milli-CPU for a quota; 0 for no limit (a quota of 0 or -1, or no period)."""
    return quota * 1000 // period if quota > 0 and period > 0 else 0


def shares_to_weight(shares: int, *, linear: bool = False) -> int:
    """Return the cgroup v2 weight that the OCI runtime sets for shares; 0 (not set) for 0.

    runc since 1.3.2 and crun since 1.23 map the default to the default, 1024 to 100, by a quadratic function of
    the logarithm (``ConvertCPUSharesToCgroupV2Value`` in github.com/opencontainers/cgroups,
    ``convert_shares_to_weight`` in crun). With ``linear`` the result is that of earlier releases, 39 for 1024. The
    kubelet still assumes that formula when it reads a weight back.
    """
    if shares == 0:
        return 0
    if linear:
        return 1 + (min(max(shares, MIN_SHARES), MAX_SHARES) - 2) * 9999 // 262142
    if shares <= MIN_SHARES:
        return _MIN_WEIGHT
    if shares >= MAX_SHARES:
        return _MAX_WEIGHT
    log = math.log2(shares)
    return math.ceil(math.pow(10, (log * log + 125 * log) / 612.0 - 7.0 / 34.0))


def weight_to_shares(weight: int, *, linear: bool = False) -> int:
    """Return shares that become this weight: ``shares_to_weight(weight_to_shares(w))`` is w. 0 for 0.

    With ``linear`` the result is the kubelet's value for a weight (``cpuWeightToCPUShares`` in
    ``pkg/kubelet/cm/cgroup_v2_manager_linux.go``). Converted back, it may be one weight less.
    """
    if weight == 0:
        return 0
    weight = min(max(weight, _MIN_WEIGHT), _MAX_WEIGHT)
    if linear:
        return (weight - 1) * 262142 // 9999 + 2
    constant = math.log10(weight) + 7.0 / 34.0
    shares = round(2 ** ((-125 + math.sqrt(125 * 125 + 4 * 612 * constant)) / 2))
    shares = min(max(shares, MIN_SHARES), MAX_SHARES)
    # The weight is rounded up, so the curve may meet it between two whole numbers of shares.
    while shares > MIN_SHARES and shares_to_weight(shares) > weight:
        shares -= 1
    return shares


def parse_cpus(text: str) -> frozenset[int]:
    """Return the numbers in a list of CPUs or memory nodes, such as "0-3,8"; an empty set for an empty text.

    The format is that of cpuset(7) and k8s.io/utils/cpuset. Raises ValueError for any other text.
    """
    ranges: list[tuple[int, int]] = []
    stripped = text.strip()
    for part in stripped.split(",") if stripped else ():
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part.strip())
        if match is None:
            raise ValueError(
                f'{quoted(part)} is not a number or a range in the CPU list {quoted(text)}; one is "0-3,8"'
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last:
            raise ValueError(f"{quoted(part)} in the CPU list {quoted(text)} ends before it begins")
        if last >= _MOST_CPUS:
            raise ValueError(
                f"{quoted(part)} in the CPU list {quoted(text)} is above the greatest CPU number {_MOST_CPUS - 1}"
            )
        ranges.append((first, last))
    numbers: set[int] = set()
    following = 0
    # Each number is added once, however many ranges have it.
    for first, last in sorted(ranges):
        numbers.update(range(max(first, following), last + 1))
        following = max(following, last + 1)
    return frozenset(numbers)


def format_cpus(cpus: Iterable[int]) -> str:
    """Return the shortest list of these numbers, in ascending order: "0-3,8"; an empty text for none.

    An empty list in an adjustment means "not set", not "no CPU at all".
    """
    ranges: list[list[int]] = []
    for number in sorted(set(cpus)):
        if number < 0:
            raise ValueError(f"{number} is not a CPU number")
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in ranges)
