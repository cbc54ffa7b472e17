"""Gives containers the devices, mounts and settings that pods request by annotation, if they are allowed.

Any author of a pod can write annotations. So the configuration has a list for each kind of request. A request that
is not in the list fails the container.
"""

from __future__ import annotations

import glob
import json
import logging
from dataclasses import dataclass, field
from typing import Annotated, Any

import nri_sync
from nri_sync import api, kit
from nri_sync.errors import NotAllowed

__all__ = ["AllowedMount", "Config", "DeviceInjector"]

logger = logging.getLogger("device-injector")


def text(value: Any) -> str:
    """Convert a scalar to text, also if YAML reads it as a number or a boolean: ``net.core.somaxconn: 512``."""
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


# nri.io is the former domain of the annotations.
known = kit.Annotations("noderesource.dev", "nri.io")
DEVICES = known.declare("devices", kit.document_of(list[Device]))
CDI_DEVICES = known.declare("cdi-devices", kit.document_of(list[str]))
MOUNTS = known.declare("mounts", kit.document_of(list[Mount]))
IO_PRIORITY = known.declare("io-priority", kit.document_of(IOPriority))
SCHEDULER = known.declare("scheduling-policy", kit.document_of(Scheduler))
NET_DEVICES = known.declare("network-devices", kit.document_of(list[NetDevice]))
SYSCTL = known.declare("sysctl", kit.document_of(dict[str, Annotated[str, text]]))
MEMORY_POLICY = known.declare("memory-policy", kit.document_of(MemoryPolicy))


@dataclass
class AllowedMount:
    """A file or directory of the node, or ``tmpfs``. No paths below it, where pods could create symbolic links."""

    source: str
    read_only: bool = True


@dataclass
class Config:
    """The devices, mounts and settings that pods may have. An empty list allows none. Patterns of a shell."""

    namespaces: list[str] = field(default_factory=lambda: ["*"])
    #: Device nodes of the node, for example ``/dev/fuse``, or patterns of types and numbers: ``c 10:229``, ``b
    #: 7:*``.
    devices: list[str] = field(default_factory=list)
    cdi_devices: list[str] = field(default_factory=list)
    mounts: list[AllowedMount] = field(default_factory=list)
    #: Patterns of the names of network devices, sysctls, and so on.
    network_devices: list[str] = field(default_factory=list)
    sysctls: list[str] = field(default_factory=list)
    io_classes: list[str] = field(default_factory=list)
    scheduling_policies: list[str] = field(default_factory=list)
    memory_policies: list[str] = field(default_factory=list)

    def require_device(self, device: Device) -> None:
        """Raise NotAllowed unless type and numbers are allowed. The pod may choose any path."""
        patterns = [numbers(kit.host_device(p)) if p[:1] == "/" else p for p in self.devices]
        kit.require_allowed("device", numbers(device), patterns)

    def require_mount(self, mount: Mount) -> None:
        """Raise NotAllowed unless the mount binds an allowed source, or is a tmpfs and that is allowed."""
        flags = {"bind", "rbind"} & {*mount.options}
        binds = mount.type == "bind" or (bool(flags) and mount.type in ("", "none"))
        if not binds and (flags or mount.type != "tmpfs"):
            raise NotAllowed(
                f"pods may have bind mounts and tmpfs, not a mount of type {mount.type!r}"
            )
        source = mount.source if binds else "tmpfs"
        kit.require_allowed("mount of", source, [glob.escape(item.source) for item in self.mounts])
        if {"shared", "rshared"} & {*mount.options}:
            raise NotAllowed(f"the mount of {source} may not be shared with the node")
        writable = any(item.source == source and not item.read_only for item in self.mounts)
        if binds and not writable and not _read_only(mount.options):
            raise NotAllowed(f"the mount of {source} has to be read-only: bind and ro")


def numbers(device: Device | api.LinuxDevice) -> str:
    """The type and the numbers of a device, as in ``c 10:229``."""
    return f"{device.type} {device.major}:{device.minor}"


def _read_only(options: list[str]) -> bool:
    """Whether the mount is read-only: the last of ro and rw is ro. With rbind, mounts below it stay writable."""
    return "rbind" not in options and [o for o in options if o in ("ro", "rw")][-1:] == ["ro"]


class DeviceInjector(nri_sync.Plugin):
    """Gives containers the devices, mounts and settings that pods request, if ``config`` allows them."""

    config = Config()  # the program replaces it

    def create_container(self, pod: api.PodSandbox, container: api.Container) -> api.Adjustment:
        config = self.config
        if any(annotation.find(pod, container) for annotation in known):
            kit.require_allowed("namespace", pod.namespace, config.namespaces)
        adjustment = api.Adjustment()
        for device in DEVICES.get(pod, container) or ():
            config.require_device(device)
            adjustment.add_device(
                device.path, device.type, device.major, device.minor,
                file_mode=device.file_mode or None, uid=device.uid or None, gid=device.gid or None,
            )  # fmt: skip
            logger.info("device %s", device.path)
        for name in CDI_DEVICES.get(pod, container) or ():
            kit.require_allowed("CDI device", name, config.cdi_devices)
            adjustment.add_cdi_device(name)
            logger.info("CDI device %s", name)
        for mount in MOUNTS.get(pod, container) or ():
            config.require_mount(mount)
            adjustment.add_mount(
                mount.destination, source=mount.source, type=mount.type, options=mount.options
            )
            logger.info("mount %s at %s", mount.source, mount.destination)
        for link in NET_DEVICES.get(pod, container) or ():
            kit.require_allowed("network device", link.host_interface, config.network_devices)
            adjustment.add_net_device(link.host_interface, link.name)
            logger.info("network device %s as %s", link.host_interface, link.name)
        for key, value in (SYSCTL.get(pod, container) or {}).items():
            kit.require_allowed("sysctl", key, config.sysctls)
            adjustment.set_sysctl(key, value)
            logger.info("sysctl %s=%s", key, value)
        self.set_priorities(pod, container, adjustment)
        return adjustment

    def set_priorities(
        self, pod: api.PodSandbox, container: api.Container, adjustment: api.Adjustment
    ) -> None:
        # The setters refuse names that the kernel does not have. The error shows in the pod's events.
        io_priority = IO_PRIORITY.get(pod, container)
        if io_priority is not None:
            kit.require_allowed("I/O class", io_priority.io_class, self.config.io_classes)
            adjustment.set_io_priority(io_priority.io_class, io_priority.priority)
            logger.info("%s", io_priority)
        scheduler = SCHEDULER.get(pod, container)
        if scheduler is not None:
            policies = self.config.scheduling_policies
            kit.require_allowed("scheduling policy", scheduler.policy, policies)
            adjustment.set_scheduler(**vars(scheduler))
            logger.info("%s", scheduler)
        memory = MEMORY_POLICY.get(pod, container)
        if memory is not None:
            kit.require_allowed("memory policy", memory.mode, self.config.memory_policies)
            adjustment.set_memory_policy(memory.mode, memory.nodes, memory.flags)
            logger.info("%s", memory)

    def run_pod_sandbox(self, pod: api.PodSandbox) -> None:
        known.warn(pod)


PROGRAM = kit.Program(DeviceInjector, config=Config, name="device-injector", idx="10")

if __name__ == "__main__":
    kit.main(PROGRAM)
