"""Rules for values of LinuxResources that no runtime accepts; see :mod:`nri_sync.api.rules`."""

from __future__ import annotations

import re

from nri_sync.api import optional
from nri_sync.api._check import show
from nri_sync.api.nri_pb2 import (
    HugepageLimit,
    LinuxCPU,
    LinuxDeviceCgroup,
    LinuxMemory,
)
from nri_sync.api.rules import number_list, plain, refuse

__all__ = ["cpu", "device_rule", "hugepage_limit", "memory", "pids_limit", "unified"]

_AMOUNTS = ("limit", "reservation", "swap", "kernel", "kernel_tcp")
_SWAPPINESS_MAX = 100
# The kernel's min_cfs_quota_period and max_cfs_quota_period, in microseconds.
_SHORTEST, _LONGEST = 1_000, 1_000_000
# OCI runtime specification, config-linux.md.
_PAGE_SIZE = r"[1-9][0-9]*[KMG]B"


def memory(memory: LinuxMemory) -> None:
    values = {name: optional.get(memory, name) for name in (*_AMOUNTS, "swappiness")}
    for name in _AMOUNTS:
        _unlimited(f"memory {name}", values[name])
    limit, swap = values["limit"], values["swap"]
    if isinstance(limit, int) and isinstance(swap, int) and 0 < swap < limit:
        refuse("memory swap", swap, f"is below the limit, {limit}: it is memory and swap together")
    swappiness = values["swappiness"]
    if isinstance(swappiness, int) and swappiness > _SWAPPINESS_MAX:
        refuse("memory swappiness", swappiness, f"must be from 0 to {_SWAPPINESS_MAX}")


def _unlimited(what: str, value: object) -> None:
    if isinstance(value, int) and value < -1:
        refuse(what, value, "must not be negative, except -1 for unlimited")


def cpu(cpu: LinuxCPU) -> None:
    quota, period = optional.get(cpu, "quota"), optional.get(cpu, "period")
    # For runtimes 0 means the default, and every negative quota means unlimited.
    if quota is not None and 0 < quota < _SHORTEST:
        refuse("CPU quota", quota, f"must be {_SHORTEST} microseconds or more, or -1 for unlimited")
    if period and not _SHORTEST <= period <= _LONGEST:
        refuse("CPU period", period, f"must be from {_SHORTEST} to {_LONGEST} microseconds")
    _unlimited("CPU realtime_runtime", optional.get(cpu, "realtime_runtime"))
    for name in ("cpus", "mems"):
        numbers = getattr(cpu, name)
        if numbers:
            number_list(name, numbers)


def pids_limit(limit: int) -> None:
    _unlimited("limit of processes", limit)


def hugepage_limit(limit: HugepageLimit) -> None:
    if not re.fullmatch(_PAGE_SIZE, limit.page_size):
        refuse("size of huge pages", limit.page_size, "is not a size such as '2MB' or '1GB'")


def unified(key: str, value: str) -> None:
    plain("cgroup file", key)
    if "/" in key or not all(key.partition(".")):
        refuse("cgroup file", key, "is not the name of a file such as 'memory.high'")
    what = f"value of the cgroup file {show(key)}:"
    plain(what, value)
    if not value:
        refuse(what, value, "sets nothing; leave it out")


def device_rule(rule: LinuxDeviceCgroup) -> None:
    if rule.type not in ("", "a", "b", "c"):
        refuse("type of a device rule", rule.type, "is none of 'a', 'b', 'c'")
    if not rule.access or not set(rule.access) <= set("rwm"):
        refuse("access of a device rule", rule.access, "is not made of 'r', 'w', 'm'")
