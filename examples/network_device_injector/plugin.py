"""Moves network devices of the host into pods that request them: ``netdevices.noderesource.dev``.

Any author of a pod can write annotations, and the node needs some of its devices itself. So the configuration
lists the devices that pods may have.
"""

from __future__ import annotations

import ipaddress
import logging
import os
from dataclasses import dataclass, field
from typing import Any

from pyroute2 import IPRoute, NetNS

import nri_sync
from nri_sync import api, kit
from nri_sync.errors import Reject

__all__ = ["Config", "NetworkDevice", "NetworkDeviceInjector", "move_in", "move_out"]

logger = logging.getLogger("network-device-injector")

HOST = "/proc/self/ns/net"


@dataclass
class NetworkDevice:
    #: The name on the host.
    name: str
    #: The name in the pod; default is the same.
    new_name: str = ""
    address: str = ""
    #: The length of the prefix; default is that of a single address.
    prefix: int = 0
    mtu: int = 0

    def __post_init__(self) -> None:
        self.new_name = self.new_name or self.name
        if self.address:
            try:
                address = ipaddress.ip_address(self.address)
            except ValueError:
                raise ValueError(f"error parsing address {self.address}") from None
            self.prefix = self.prefix or address.max_prefixlen


# Devices belong to a pod, not to one of its containers.
known = kit.Annotations("noderesource.dev", "nri.containerd.io", forms=("{key}/pod", "{key}"))
DEVICES = known.declare("netdevices", kit.document_of(list[NetworkDevice]))
# The reference documents the key above, but reads this one.
SINGULAR = known.declare("netdevice", kit.document_of(list[NetworkDevice]))


@dataclass
class Config:
    """Patterns of the devices that pods may have (default none), and of the namespaces whose pods may ask."""

    devices: list[str] = field(default_factory=list)
    namespaces: list[str] = field(default_factory=lambda: ["*"])


class NetworkDeviceInjector(nri_sync.Plugin):
    """Moves network devices of the host into pods that request them, and back when the pods stop."""

    #: The program replaces it.
    config = Config()

    def __init__(self) -> None:
        self.namespaces: dict[str, str] = {}

    def synchronize(self, pods: list[api.PodSandbox], containers: list[api.Container]) -> None:
        self.namespaces = {pod.id: kit.network_namespace(pod) or "" for pod in pods}

    def run_pod_sandbox(self, pod: api.PodSandbox) -> None:
        known.warn(pod)
        devices = DEVICES.get(pod) or SINGULAR.get(pod)
        if not devices:
            return
        kit.require_allowed("namespace", pod.namespace, self.config.namespaces)
        for device in devices:
            kit.require_allowed("network device", device.name, self.config.devices)
        namespace = kit.network_namespace(pod)
        if namespace is None:
            raise Reject("trying to inject network device on host network Pod")
        self.namespaces[pod.id] = namespace
        moved: list[NetworkDevice] = []
        try:
            for device in devices:
                move_in(device, namespace)
                moved.append(device)
        except Exception:
            # The pod fails, so it must not keep any device.
            self.release(moved, namespace)
            raise

    def stop_pod_sandbox(self, pod: api.PodSandbox) -> None:
        # When a pod stops, runtimes may no longer send its namespace.
        namespace = self.namespaces.pop(pod.id, None) or kit.network_namespace(pod)
        devices = DEVICES.get(pod) or SINGULAR.get(pod)
        if devices and namespace:
            self.release(devices, namespace)

    def release(self, devices: list[NetworkDevice], namespace: str) -> None:
        for device in devices:
            try:
                move_out(device, namespace)
            except Exception as error:  # move the others back in any case
                logger.error("%s cannot be moved back: %s", device.new_name, error)

    def remove_pod_sandbox(self, pod: api.PodSandbox) -> None:
        self.namespaces.pop(pod.id, None)


def move_in(device: NetworkDevice, namespace: str) -> None:
    """Move a device of the host into a network namespace, and set it up there."""
    with IPRoute() as host, NetNS(namespace, flags=0) as pod:
        index = find(host, device.name)
        flags = host.get_links(index)[0]["flags"]
        temporary = f"temp_{index}"
        # Only a device that is down can be renamed. Its name may be in use in the other namespace.
        host.link("set", index=index, state="down")
        host.link("set", index=index, ifname=temporary)
        try:
            hand_over(host, index, namespace)
        except Exception:
            host.link("set", index=index, ifname=device.name)
            host.link("set", index=index, state="up" if flags & 1 else "down")
            raise
        try:
            index = find(pod, temporary)
            # The alias keeps the name on the host, for the move back.
            pod.link("set", index=index, ifalias=device.name)
            pod.link("set", index=index, ifname=device.new_name)
            if device.mtu:
                pod.link("set", index=index, mtu=device.mtu)
            if device.address:
                pod.addr("add", index=index, address=device.address, prefixlen=device.prefix)
            pod.link("set", index=index, state="up")
        except Exception:
            take_back(host, pod, index, device.name)
            raise
    logger.info("moved %s into the pod, as %s", device.name, device.new_name)


def move_out(device: NetworkDevice, namespace: str) -> None:
    """Move a device back to the host, under its former name. It stays down."""
    with IPRoute() as host, NetNS(namespace, flags=0) as pod:
        index = find(pod, device.new_name)
        name = pod.get_links(index)[0].get_attr("IFLA_IFALIAS") or device.name
        take_back(host, pod, index, name)
    logger.info("moved %s back to the host, as %s", device.new_name, name)


def take_back(host: Any, pod: Any, index: int, name: str) -> None:
    temporary = f"temp_{index}"
    pod.link("set", index=index, state="down")
    pod.link("set", index=index, ifname=temporary)
    hand_over(pod, index, HOST)
    index = find(host, temporary)
    host.link("set", index=index, ifname=name)


def hand_over(links: Any, index: int, namespace: str) -> None:
    descriptor = os.open(namespace, os.O_RDONLY)
    try:
        links.link("set", index=index, net_ns_fd=descriptor)
    finally:
        os.close(descriptor)


def find(links: Any, name: str) -> int:
    found = links.link_lookup(ifname=name)
    if not found:
        raise ValueError(f"there is no network device {name}")
    index: int = found[0]
    return index


PROGRAM = kit.Program(
    NetworkDeviceInjector, config=Config, name="network-device-injector", idx="10"
)

if __name__ == "__main__":
    kit.main(PROGRAM)
