"""The setters for resources that Adjustment and Update share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, SupportsIndex, TypeVar

from google.protobuf.message import Message

from nri_sync.api import _check, optional, repeats, resource_rules, rules
from nri_sync.api.nri_pb2 import HugepageLimit, LinuxResources

__all__ = ["ResourceSettings", "put_all"]

# The fields of LinuxCPU that are not optional values.
_TEXTS = frozenset({"cpus", "mems"})

_Self = TypeVar("_Self", bound="ResourceSettings")


class ResourceSettings:
    """Setters for LinuxResources. Each setter returns the object itself, so that calls can be chained.

    An argument that is None leaves its setting unchanged. A value that no runtime accepts raises ValueError, and
    changes nothing. The setters do not check whether a node has that many CPUs or that much memory; the runtime
    does when it applies the values.
    """

    _entries: repeats.Entries

    @property
    def resources(self) -> LinuxResources:
        """The message that the setters write to. Reading it changes nothing."""
        raise NotImplementedError

    def set_memory(
        self: _Self,
        *,
        limit: SupportsIndex | None = None,
        reservation: SupportsIndex | None = None,
        swap: SupportsIndex | None = None,
        kernel: SupportsIndex | None = None,
        kernel_tcp: SupportsIndex | None = None,
        swappiness: SupportsIndex | None = None,
        disable_oom_killer: bool | None = None,
        use_hierarchy: bool | None = None,
    ) -> _Self:
        """Set amounts of memory in bytes, -1 for unlimited.

        ``swap`` is the sum of memory and swap. ``swappiness`` is a percentage.
        """
        return self._put(
            "memory",
            resource_rules.memory,
            limit=limit,
            reservation=reservation,
            swap=swap,
            kernel=kernel,
            kernel_tcp=kernel_tcp,
            swappiness=swappiness,
            disable_oom_killer=disable_oom_killer,
            use_hierarchy=use_hierarchy,
        )

    def set_cpu(
        self: _Self,
        *,
        shares: SupportsIndex | None = None,
        quota: SupportsIndex | None = None,
        period: SupportsIndex | None = None,
        realtime_runtime: SupportsIndex | None = None,
        realtime_period: SupportsIndex | None = None,
        cpus: str | None = None,
        mems: str | None = None,
    ) -> _Self:
        """Set CPU shares, times in microseconds (quota -1 for unlimited), and the cpuset.

        ``cpus`` and ``mems`` are lists such as ``"0-3,8"``. An empty list is an error, because the message cannot
        express it: the container would keep its CPUs.
        """
        for name, numbers in (("cpus", cpus), ("mems", mems)):
            if numbers is not None:
                rules.number_list(name, _check.text(f"LinuxCPU.{name}", numbers))
        return self._put(
            "cpu",
            resource_rules.cpu,
            shares=shares,
            quota=quota,
            period=period,
            realtime_runtime=realtime_runtime,
            realtime_period=realtime_period,
            cpus=cpus,
            mems=mems,
        )

    def set_pids_limit(self: _Self, limit: SupportsIndex) -> _Self:
        """Set the largest number of processes and threads, -1 for unlimited."""
        checked = _check.integer("LinuxPids.limit", limit, _check.INT64)
        resource_rules.pids_limit(checked)
        # 0 is also a limit, so the field must be present.
        self.resources.pids.SetInParent()
        self.resources.pids.limit = checked
        return self

    def add_hugepage_limit(self: _Self, page_size: str, limit: SupportsIndex) -> _Self:
        """Limit huge pages of a size such as ``"2MB"`` or ``"1GB"``. ``limit`` is in bytes."""
        message = HugepageLimit(
            page_size=_check.text("HugepageLimit.page_size", page_size),
            limit=_check.integer("HugepageLimit.limit", limit, _check.UINT64),
        )
        resource_rules.hugepage_limit(message)
        self._entries.add(self.resources.hugepage_limits, message)
        return self

    def set_blockio_class(self: _Self, name: str) -> _Self:
        """Set a class of block I/O that the runtime's configuration defines. ``""`` removes the class."""
        rules.plain("blockio_class", _check.text("blockio_class", name))
        optional.put(self.resources, "blockio_class", name)
        return self

    def set_rdt_class(self: _Self, name: str) -> _Self:
        """Set a class of cache and memory bandwidth that the runtime's configuration defines.

        ``""`` removes the class.
        """
        rules.plain("rdt_class", _check.text("rdt_class", name))
        optional.put(self.resources, "rdt_class", name)
        return self

    def set_unified(self: _Self, key: str, value: str) -> _Self:
        """Set a file of cgroup v2, such as ``"memory.high"``, to a text."""
        _check.text("key of LinuxResources.unified", key)
        checked = _check.text(f"LinuxResources.unified[{_check.show(key)}]", value)
        resource_rules.unified(key, checked)
        repeats.assign(self.resources.unified, key, checked, "cgroup file")
        return self

    def _put(
        self: _Self,
        part: str,
        rule: Callable[[Any], None],
        **values: SupportsIndex | str | bool | None,
    ) -> _Self:
        put_all(getattr(self.resources, part), values, rule)
        return self


def put_all(message: Message, values: Mapping[str, object], rule: Callable[[Any], None]) -> None:
    """Set the fields whose values are not None: optional fields, and plain texts.

    If a value is invalid, or the message would break the rule, nothing is changed.
    """
    checked: dict[str, optional.Value] = {}
    for field, value in values.items():
        if value is not None:
            if field in _TEXTS:
                checked[field] = _check.text(f"{message.DESCRIPTOR.name}.{field}", value)
            else:
                checked[field] = optional.check(message, field, value)
    if not checked:
        return
    draft = type(message)()
    draft.CopyFrom(message)
    for field, ready in checked.items():
        if field in _TEXTS:
            setattr(draft, field, ready)
        else:
            optional.store(draft, field, ready)
    rule(draft)
    message.CopyFrom(draft)
