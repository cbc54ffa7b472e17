"""The pods and containers of an embedded runtime, as its plugins see them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TypeVar

from google.protobuf.message import Message

from nri_sync.api.nri_pb2 import (
    Container,
    ContainerAdjustment,
    ContainerUpdate,
    LinuxContainerAdjustment,
    LinuxResources,
    PodSandbox,
)
from nri_sync.runtime.claims import logger
from nri_sync.runtime.merge_resources import copy_field
from nri_sync.runtime.oci_container import adjust_container
from nri_sync.threads import signal_safe
from nri_sync.wire.ttrpc import MESSAGE_MAX
from nri_sync.wire.varint import encode_varint

__all__ = ["Node", "given_resources", "set_resources", "split"]

_M = TypeVar("_M", PodSandbox, Container)

# The tag of a bytes field whose number no message uses.
_UNKNOWN_FIELD = b"\xfa\xff\xff\x0f"
# A runtime sends a state in one message if it fits. This pod therefore fills a message, except for the envelope. A
# runtime that splits a state uses parts that are smaller than this container.
_LARGE_POD = MESSAGE_MAX - 256 - 6
_LARGE_CONTAINER = 512 * 1024


class Node:
    """Pods and containers by id. Thread-safe: the node stores and returns copies of messages."""

    def __init__(self) -> None:
        # Guards the three collections.
        self._lock = threading.Lock()
        self._pods: dict[str, PodSandbox] = {}
        self._containers: dict[str, Container] = {}
        self._stopped: set[str] = set()

    @property
    @signal_safe
    def pods(self) -> list[PodSandbox]:
        with self._lock:
            return [_copy(pod) for pod in self._pods.values()]

    @property
    @signal_safe
    def containers(self) -> list[Container]:
        with self._lock:
            return [_copy(container) for container in self._containers.values()]

    @signal_safe
    def pod(self, wanted: PodSandbox | str) -> PodSandbox:
        """The current state of the pod with that id. Raises ValueError if there is none."""
        with self._lock:
            return _find(self._pods, wanted, "pod", "run_pod() or add() it first")

    @signal_safe
    def container(self, wanted: Container | str) -> Container:
        """The current state of the container with that id. Raises ValueError if there is none."""
        with self._lock:
            return _find(
                self._containers, wanted, "container", "create_container() or add() it first"
            )

    def containers_of(self, pod: PodSandbox) -> list[Container]:
        return [item for item in self.containers if item.pod_sandbox_id == pod.id]

    @signal_safe
    def new(self, item: PodSandbox | Container) -> None:
        """Raise ValueError if the id of a pod or container is taken, or the pod of a container is missing."""
        with self._lock:
            known = self._pods.keys() | self._containers.keys()
            if item.id in known:
                raise ValueError(f"{item.name!r} exists already: the id {item.id!r} is taken")
            if isinstance(item, Container):
                _find(self._pods, item.pod_sandbox_id, "pod", "run_pod() or add() it first")

    @signal_safe
    def put(self, item: PodSandbox | Container) -> None:
        with self._lock:
            if isinstance(item, PodSandbox):
                self._pods[item.id] = _copy(item)
            else:
                self._containers[item.id] = _copy(item)

    @signal_safe
    def has(self, container: Container) -> bool:
        with self._lock:
            return container.id in self._containers

    @signal_safe
    def stop(self, pod: PodSandbox) -> bool:
        """Record that a pod is stopped; False if it was already."""
        with self._lock:
            known = len(self._stopped)
            self._stopped.add(pod.id)
            return len(self._stopped) > known

    @signal_safe
    def remove(self, item: PodSandbox | Container) -> None:
        with self._lock:
            self._pods.pop(item.id, None)
            self._containers.pop(item.id, None)
            self._stopped.discard(item.id)

    def update(self, update: ContainerUpdate) -> bool:
        """Apply the update of a plugin; False if there is no such container."""
        # Compute the resources before taking the lock, because the computation logs.
        return self._update(update.container_id, _kept_of_update(update.linux.resources))

    @signal_safe
    def _update(self, container_id: str, resources: LinuxResources) -> bool:
        with self._lock:
            container = self._containers.get(container_id)
            if container is None:
                return False
            has = container.linux.resources
            # After an update both are there, if only empty.
            has.memory.SetInParent()
            has.cpu.SetInParent()
            set_resources(has, given_resources(resources, bool(has.hugepage_limits)))
            return True


def _kept_of_update(wanted: LinuxResources) -> LinuxResources:
    """The resources of an update that reach the container. Logs each field that does not.

    A runtime applies an update by way of the CRI, and loses the fields that the CRI does not have. In containerd
    (``toCRIResources`` in ``internal/cri/nri``, ``WithResources`` in ``internal/cri/opts``) the remaining fields
    are CPU, a memory limit, which is also the swap limit, huge pages, and unified settings.
    """
    for name in ("pids", "blockio_class", "rdt_class"):
        if wanted.HasField(name):
            logger.warning("update of a container: %s is lost: the CRI has no such field", name)
    kept = LinuxResources(
        cpu=wanted.cpu,
        memory=wanted.memory,
        hugepage_limits=wanted.hugepage_limits,
        unified=wanted.unified,
    )
    for name in ("realtime_runtime", "realtime_period"):
        kept.cpu.ClearField(name)
    kept = given_resources(kept, huge_pages=True)
    adjustment = ContainerAdjustment(linux=LinuxContainerAdjustment(resources=kept))
    return adjust_container(Container(), adjustment).linux.resources


def given_resources(wanted: LinuxResources, huge_pages: bool) -> LinuxResources:
    """The values of an update that containerd applies: it treats 0 as not set.

    In each update, the kubelet sends a limit for each size of huge pages. If the container has no such limits
    (``huge_pages`` is False), as in containerd's default configuration, limits of 0 are left out.
    """
    given = LinuxResources()
    given.CopyFrom(wanted)
    for part, names in ((given.cpu, ("shares", "quota", "period")), (given.memory, ("limit",))):
        for name in names:
            if part.HasField(name) and not getattr(part, name).value:
                part.ClearField(name)
    if not huge_pages:
        limits = [item for item in wanted.hugepage_limits if item.limit]
        del given.hugepage_limits[:]
        given.hugepage_limits.extend(limits)
    return given


def set_resources(target: LinuxResources, wanted: LinuxResources) -> None:
    """Copy the fields that are set in ``wanted``; the other fields stay."""
    for part in ("memory", "cpu"):
        _set(getattr(target, part), getattr(wanted, part))
    for name in ("pids", "blockio_class", "rdt_class"):
        if wanted.HasField(name):
            copy_field(target, name, getattr(wanted, name))
    limits = {limit.page_size: limit.limit for limit in target.hugepage_limits}
    limits.update((limit.page_size, limit.limit) for limit in wanted.hugepage_limits)
    del target.hugepage_limits[:]
    for page_size, limit in limits.items():
        target.hugepage_limits.add(page_size=page_size, limit=limit)
    target.unified.update(wanted.unified)


def _set(target: Message, wanted: Message) -> None:
    for field, value in wanted.ListFields():
        if isinstance(value, Message):
            copy_field(target, field.name, value)
        else:
            setattr(target, field.name, value)


def split(
    pods: Sequence[PodSandbox], containers: Sequence[Container]
) -> tuple[list[PodSandbox], list[Container]]:
    """Enlarge the state so that a runtime sends it in parts, the first pod and the first container alone.

    The first pod and the first container grow by a field of unknown number. Plugins do not see that field.
    """
    return _with_large_first(pods, _LARGE_POD), _with_large_first(containers, _LARGE_CONTAINER)


def _with_large_first(items: Sequence[_M], size: int) -> list[_M]:
    grown = [_copy(item) for item in items]
    for item in grown[:1]:
        # The tag and length of the field take 8 bytes.
        missing = size - 8 - item.ByteSize()
        if missing > 0:
            item.MergeFromString(_UNKNOWN_FIELD + encode_varint(missing, 4) + bytes(missing))
    return grown


def _copy(item: _M) -> _M:
    copy = type(item)()
    copy.CopyFrom(item)
    return copy


def _find(items: dict[str, _M], wanted: _M | str, what: str, advice: str) -> _M:
    id = wanted if isinstance(wanted, str) else wanted.id
    if id not in items:
        raise ValueError(f"there is no {what} {id!r} on this runtime: {advice}")
    return _copy(items[id])
