"""The example's DaemonSet on the cluster, in the modes to compare."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import yaml

from tests.e2e.cri import Container
from tests.e2e.machine import wait_for
from tests.kubernetes.cluster import PATIENCE, Cluster

__all__ = ["HANDOVER", "MODES", "NEITHER", "REQUIRED", "TOLERATED", "Deployment"]

ROOT = Path(__file__).resolve().parents[2]
NAME = "nri-plugin-ulimit-adjuster"
#: Pods are replaced one after the other, and no plugin is required: the plugin is absent for seconds.
NEITHER = "neither"
#: The unmodified manifests.
HANDOVER = "handover"
#: The unmodified manifests, on a containerd that requires the plugin.
REQUIRED = "required"
MODES = (NEITHER, HANDOVER, REQUIRED)
TOLERATED = "tolerate-missing-plugins.noderesource.dev"

# A handler that hangs once for each pod that requests it, longer than any timeout.
_HANGING = """
import sys, time
sys.argv[0] = "plugin.py"
from nri_sync import kit
from examples.ulimit_adjuster.plugin import Config, UlimitAdjuster
class Hanging(UlimitAdjuster):
    seen = set()
    def create_container(self, pod, container):
        if "hang" in pod.annotations and pod.name not in self.seen:
            self.seen.add(pod.name)
            time.sleep(60)
        return super().create_container(pod, container)
kit.main(Hanging, config=Config, name="ulimit-adjuster", idx="10")
"""


class Deployment:
    """The deployment: applied by ``kubectl apply -k``, changed, and restarted."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.mode = ""
        self._is_required = False

    def apply(self, mode: str) -> None:
        """Run the plugin in this mode. Does nothing if it already does."""
        if mode == self.mode:
            return
        if (mode == REQUIRED) != self._is_required:
            self._require(mode == REQUIRED)
        overlay = self.cluster.root / "overlay"
        (overlay / "kustomization.yaml").write_text(self._overlay(overlay, mode))
        self.cluster.kubectl("apply", "-k", str(overlay))
        self.wait_rolled_out()
        self.mode = mode

    def _require(self, required: bool) -> None:
        self.cluster.stop()
        self.cluster.configure(_requirement() if required else "")
        self.cluster.start()
        self._is_required = required

    def _overlay(self, overlay: Path, mode: str) -> str:
        examples = os.path.relpath(ROOT / "examples", overlay.resolve())
        components = ["socket", *(["one-at-a-time"] if mode == NEITHER else [])]
        local = {"config.kubernetes.io/local-config": "true"}
        found = {
            "resources": [f"{examples}/ulimit_adjuster"],
            "components": [f"{examples}/deploy/components/{name}" for name in components],
            "configMapGenerator": [
                {
                    "name": "nri-node",
                    "literals": [f"directory={self.cluster.nri_socket.parent}"],
                    "options": {"annotations": local},
                }
            ],
        }
        if mode != NEITHER:
            # The machine may have other plugins in the default directory.
            volume = {"name": "handover", "hostPath": {"path": f"{self.cluster.root}/handover"}}
            found["patches"] = [self._patch({"volumes": [volume]})]
        return yaml.safe_dump(found)

    @staticmethod
    def _patch(spec: dict[str, object]) -> dict[str, object]:
        patch = {
            "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "any"},
            "spec": {"template": {"spec": spec}},
        }  # fmt: skip
        return {"target": {"kind": "DaemonSet"}, "patch": yaml.safe_dump(patch)}

    def update(self) -> float:
        """Do a rolling update; returns its duration in seconds."""
        began = time.monotonic()
        self.cluster.kubectl("rollout", "restart", f"ds/{NAME}", "-n", "kube-system")
        self.wait_rolled_out()
        return time.monotonic() - began

    def hang(self) -> None:
        """Replace the program by one whose handler hangs. apply() with another mode undoes that."""
        container = {"name": "plugin", "command": ["python", "-c", _HANGING]}
        patch = yaml.safe_dump({"spec": {"template": {"spec": {"containers": [container]}}}})
        self.cluster.kubectl("patch", f"ds/{NAME}", "-n", "kube-system", "-p", patch)
        self.wait_rolled_out()
        self.mode += " that hangs"

    def wait_rolled_out(self) -> None:
        command = ("rollout", "status", f"ds/{NAME}", "-n", "kube-system")
        self.cluster.kubectl(*command, f"--timeout={PATIENCE:.0f}s")
        # The old pod may still be ending.
        wait_for(lambda: len(self.pods()) == 1, PATIENCE)

    def pods(self) -> list[str]:
        chosen = ("-n", "kube-system", "-l", f"app.kubernetes.io/name={NAME}")
        return self.cluster.kubectl("get", "pods", *chosen, "-o", "name").split()

    def wait_ready_after(self, restarts: int) -> None:
        """Wait until the container has restarted more than ``restarts`` times, and the pod is ready."""
        self.cluster.wait(lambda: self._restarts() > restarts and self._is_ready(), "the plugin")

    def _status(self, path: str) -> str:
        chosen = ("-n", "kube-system", "-l", f"app.kubernetes.io/name={NAME}")
        return self.cluster.kubectl(
            "get", "pods", *chosen, "-o", f"jsonpath={{.items[0].status.{path}}}", check=False
        )

    def _restarts(self) -> int:
        return int(self._status("containerStatuses[0].restartCount") or 0)

    restarts = property(_restarts)

    def _is_ready(self) -> bool:
        return self._status("containerStatuses[0].ready") == "true"

    @property
    def pid(self) -> int:
        """The pid of the plugin's process on the host."""
        call = self.cluster.cri.call
        chosen = {"io.kubernetes.pod.namespace": "kube-system"}
        found = call(
            "ListContainers", filter={"state": {"state": 1}, "label_selector": chosen}
        ).containers
        (container,) = [
            item for item in found if item.labels["io.kubernetes.container.name"] == "plugin"
        ]
        return Container(self.cluster.cri, container.id, "plugin").pid


def _requirement() -> str:
    """The part of containerd's configuration in docs/deploying.md, for this plugin."""
    page = (ROOT / "docs" / "deploying.md").read_text()
    block: str
    (block,) = re.findall(r"^```toml\n(.*?)^```$", page, re.M | re.S)
    assert TOLERATED in block
    return "\n" + block.replace("device-injector", "ulimit-adjuster")
