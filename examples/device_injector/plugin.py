"""Gives containers the devices, mounts and settings that annotations of their pods ask for."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from typing import Annotated, Any

from nri_sync import api, kit

__all__ = ["DeviceInjector"]

logger = logging.getLogger("device-injector")


def text(value: Any) -> str:
    """Text, also where YAML reads it as something else: ``net.core.somaxconn: 512``."""
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    if isinstance(value, str):
        return value
    raise ValueError(f"expected text, not {value!r}")


def mode(value: Any) -> int:
    """Permissions: 0666, which YAML reads as octal, 0o666, or either in quotes."""
    return int(value, 8) if isinstance(value, str) else int(value)


@dataclass
class Device:
    path: str
    type: str
    major: int = 0
    minor: int = 0
    file_mode: Annotated[int, mode] = 0
    uid: int = 0
    gid: int = 0


@dataclass
class Mount:
    destination: str
    source: str = ""
    type: str = ""
    options: list[str] = field(default_factory=list)


@dataclass
class NetDevice:
    host_interface: str = field(metadata={"key": "hostIf"})
    name: str = ""


@dataclass
class IOPriority:
    io_class: str = field(metadata={"key": "class"})
    priority: int = 0


@dataclass
class Scheduler:
    policy: str
    nice: int = 0
    priority: int = 0
    flags: list[str] = field(default_factory=list)
    runtime: int = 0
    deadline: int = 0
    period: int = 0


@dataclass
class MemoryPolicy:
    mode: str
    nodes: Annotated[str, text] = ""
    flags: list[str] = field(default_factory=list)


# nri.io is what the annotations were called before.
known = kit.Annotations("noderesource.dev", "nri.io")
DEVICES = known.declare("devices", kit.document_of(list[Device]))
CDI_DEVICES = known.declare("cdi-devices", kit.document_of(list[str]))
MOUNTS = known.declare("mounts", kit.document_of(list[Mount]))
IO_PRIORITY = known.declare("io-priority", kit.document_of(IOPriority))
SCHEDULER = known.declare("scheduling-policy", kit.document_of(Scheduler))
NET_DEVICES = known.declare("network-devices", kit.document_of(list[NetDevice]))
SYSCTL = known.declare("sysctl", kit.document_of(dict[str, Annotated[str, text]]))
MEMORY_POLICY = known.declare("memory-policy", kit.document_of(MemoryPolicy))


class DeviceInjector:
    """Gives containers the devices, mounts and settings that annotations of their pods ask for."""

    def create_container(self, pod: api.PodSandbox, container: api.Container) -> api.Adjustment:
        adjustment = api.Adjustment()
        for device in DEVICES.get(pod, container) or ():
            adjustment.add_device(
                device.path, device.type, device.major, device.minor,
                file_mode=device.file_mode or None, uid=device.uid or None, gid=device.gid or None,
            )  # fmt: skip
            logger.info("device %s", device.path)
        for name in CDI_DEVICES.get(pod, container) or ():
            adjustment.add_cdi_device(name)
            logger.info("CDI device %s", name)
        for mount in MOUNTS.get(pod, container) or ():
            adjustment.add_mount(
                mount.destination, source=mount.source, type=mount.type, options=mount.options
            )
            logger.info("mount %s at %s", mount.source, mount.destination)
        for link in NET_DEVICES.get(pod, container) or ():
            adjustment.add_net_device(link.host_interface, link.name)
            logger.info("network device %s as %s", link.host_interface, link.name)
        for key, value in (SYSCTL.get(pod, container) or {}).items():
            adjustment.set_sysctl(key, value)
            logger.info("sysctl %s=%s", key, value)
        self.set_priorities(pod, container, adjustment)
        return adjustment

    def set_priorities(
        self, pod: api.PodSandbox, container: api.Container, adjustment: api.Adjustment
    ) -> None:
        # The setters refuse names that the kernel does not have; the error is the pod's.
        io_priority = IO_PRIORITY.get(pod, container)
        if io_priority is not None:
            adjustment.set_io_priority(io_priority.io_class, io_priority.priority)
            logger.info("%s", io_priority)
        scheduler = SCHEDULER.get(pod, container)
        if scheduler is not None:
            adjustment.set_scheduler(**vars(scheduler))
            logger.info("%s", scheduler)
        memory = MEMORY_POLICY.get(pod, container)
        if memory is not None:
            adjustment.set_memory_policy(memory.mode, memory.nodes, memory.flags)
            logger.info("%s", memory)

    def run_pod_sandbox(self, pod: api.PodSandbox) -> None:
        known.warn(pod)


if __name__ == "__main__":
    kit.main(DeviceInjector, name="device-injector", idx="10")
