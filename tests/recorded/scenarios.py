"""The manifests, and the nodes of their recordings."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nri_sync.api.runtimes import MEASURED
from nri_sync.testing.manifests import Assumptions, ImageConfig, Workload, load
from nri_sync.testing.simulation import SimulatedPlugin, simulate
from tests.e2e.build import IMAGES
from tests.recorded.messages import Event, plain
from tests.recorded.recorder import MessageRecorder

__all__ = [
    "CRIO", "KUBERNETES", "NAMES", "WITH_OUTPUTS", "assumptions", "for_crictl", "is_generated",
    "manifest", "node_of", "resized", "simulated", "workloads",
]  # fmt: skip

HERE = Path(__file__).resolve().parent
#: The recordings of a Kubernetes node with containerd.
KUBERNETES = HERE / "kubernetes"
#: The recordings of a node with CRI-O, by crictl.
CRIO = HERE / "crio"
_MANIFESTS = HERE / "manifests"
_RESIZED = ".resized"
#: The names of all manifests. Each is recorded in a namespace of its name.
NAMES = sorted(path.stem for path in _MANIFESTS.glob("*.yaml") if not path.stem.endswith(_RESIZED))


#: Manifests whose pods crictl cannot create in the way of a kubelet.
_LEFT_OUT = {
    "ephemeral": "the request has the id of another container",
    "image-volume": "the request has an image in place of a path",
    "privileged": "CRI-O gives capabilities that the machine may lack",
    "user-namespace": "the request has ids of users",
}


#: Manifests for which the output of crictl is kept, too.
WITH_OUTPUTS = ("burstable", "host-network", "runtime-class", "security", "sidecar", "user")


def for_crictl() -> list[str]:
    """The names of the other manifests."""
    return [name for name in NAMES if _kinds(name) & {"Pod"} and name not in _LEFT_OUT]


def manifest(name: str) -> Path:
    return _MANIFESTS / f"{name}.yaml"


def resized(name: str) -> Path | None:
    """The manifest with the new resources of the pod, if the pod is resized."""
    path = _MANIFESTS / f"{name}{_RESIZED}.yaml"
    return path if path.exists() else None


def is_generated(name: str) -> bool:
    """Whether the name of the pod ends with letters from a controller."""
    return not _kinds(name) & {"Pod", "StatefulSet"}


def _kinds(name: str) -> set[str]:
    return set(re.findall(r"^kind: (\w+)$", manifest(name).read_text(), re.M))


def assumptions(node: Mapping[str, Any]) -> Assumptions:
    """The assumptions. ``node`` has the fields that differ from the defaults, except for the images."""
    return Assumptions(**node, images={name: _image(config) for name, config in IMAGES.items()})


def _image(config: Mapping[str, Any]) -> ImageConfig:
    return ImageConfig(
        entrypoint=config["Entrypoint"],
        cmd=config.get("Cmd", ()),
        env=config["Env"],
        user=config.get("User", ""),
        working_dir=config.get("WorkingDir", ""),
        volumes=tuple(config.get("Volumes", ())),
        labels=config.get("Labels", {}),
    )


def node_of(directory: Path) -> dict[str, Any]:
    """The node's fields, from the file in the directory of its recordings."""
    found: dict[str, Any] = json.loads((directory / "node.json").read_text())
    return found


def workloads(path: Path, node: Mapping[str, Any]) -> list[Workload]:
    return load(path, assumptions=assumptions(node))


def simulated(name: str, node: Mapping[str, Any], outputs: Sequence[Any] = ()) -> list[list[Event]]:
    """The events of a plugin in a simulation of a manifest, or of the ``outputs`` of crictl for it."""
    target = resized(name)
    pods = workloads(manifest(name), node)
    resize = workloads(target, node) if target else []
    if outputs:
        pods, resize = load(*map(json.dumps, outputs)), []
    recorder = MessageRecorder()
    runtime = (node["runtime"], MEASURED[node["runtime"]]) if "runtime" in node else None
    plugins = [SimulatedPlugin(recorder, "recorder")]
    simulate(plugins, pods, resize=resize, runtime=runtime)
    return plain(recorder.requests, {}, generated=is_generated(name))
