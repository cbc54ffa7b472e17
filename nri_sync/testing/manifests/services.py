"""The environment variables by which containers find services.

After Kubernetes v1.36: ``getServiceEnvVarMap`` in ``pkg/kubelet/kubelet_pods.go`` and ``pkg/kubelet/envvars``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Callable

from nri_sync.testing.manifests.fields import Fields
from nri_sync.testing.manifests.ids import container_id
from nri_sync.testing.manifests.model import Assumptions

__all__ = ["service_env"]

# The service of the API server, for which every pod has variables.
_MASTER = ("default", "kubernetes")

Note = Callable[[str], object]


def service_env(
    services: Mapping[tuple[str, str], Fields],
    namespace: str,
    links: bool,
    assumptions: Assumptions,
    note: Note,
) -> dict[str, str]:
    """The variables of a pod; none for static pods.

    Args:
        services: by namespace and name.
        namespace: of the pod.
        links: ``enableServiceLinks``: whether the pod also has variables for the services of its namespace.
        note: called with each unknown property.
    """
    if assumptions.static_pods:
        return {}
    env: dict[str, str] = {}
    if _MASTER not in services:
        port = Fields({"name": "https", "port": 443}, "")
        env.update(_variables("kubernetes", assumptions.service_ip, [port]))
    for (where, name), service in sorted(services.items()):
        if (where, name) != _MASTER and not (links and where == namespace):
            continue
        address = _address(where, name, service, note)
        ports = list(service.object("spec").objects("ports"))
        if address and ports:
            env.update(_variables(name, address, ports))
    return env


def _address(namespace: str, name: str, service: Fields, note: Note) -> str:
    """``clusterIP``; "" for a service without one."""
    spec = service.object("spec")
    if spec.text("type") == "ExternalName" or spec.text("clusterIP") == "None":
        return ""
    address = spec.text("clusterIP") or next(iter(spec.texts("clusterIPs")), "")
    if not address:
        low = int(container_id("service", namespace, name)[:4], 16)
        address = f"10.96.{low >> 8}.{low & 0xFF}"
        note(f"the address of Service {name} is made up: {address}")
    return "" if address == "None" else address


def _variables(service: str, address: str, ports: list[Fields]) -> dict[str, str]:
    """``FromServices`` and ``makeLinkVariables``."""
    prefix = _name(service)
    numbers = [str(port.integer("port")) for port in ports]
    env = {f"{prefix}_SERVICE_HOST": address, f"{prefix}_SERVICE_PORT": numbers[0]}
    for port, number in zip(ports, numbers):
        if port.text("name"):
            env[f"{prefix}_SERVICE_PORT_{_name(port.text('name'))}"] = number
    host = f"[{address}]" if ":" in address else address
    for port, number in zip(ports, numbers):
        protocol = port.text("protocol") or "TCP"
        url = f"{protocol.lower()}://{host}:{number}"
        env.setdefault(f"{prefix}_PORT", url)
        link = f"{prefix}_PORT_{number}_{protocol.upper()}"
        env[link] = url
        env[f"{link}_PROTO"] = protocol.lower()
        env[f"{link}_PORT"] = number
        env[f"{link}_ADDR"] = address
    return env


def _name(text: str) -> str:
    return text.replace("-", "_").upper()
