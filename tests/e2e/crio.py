"""CRI-O with NRI."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import ClassVar

from tests.e2e import registry
from tests.e2e.build import IMAGE, IMAGES, Tools
from tests.e2e.build_crio import CRIO, build_crio
from tests.e2e.node import Node

__all__ = ["Crio"]

CONFIG = """\
[crio]
root = "{root}/root"
runroot = "{root}/runroot"
storage_driver = "overlay"
log_dir = "{root}/pods-log"
version_file = "{root}/version"
version_file_persist = "{root}/version-persist"
clean_shutdown_file = "{root}/clean.shutdown"

[crio.api]
listen = "{root}/c.sock"

[crio.runtime]
default_runtime = "runc"
cgroup_manager = "cgroupfs"
conmon_cgroup = "pod"
drop_infra_ctr = false
selinux = false
apparmor_profile = "unconfined"
pinns_path = "{bin}/pinns"
namespaces_dir = "{root}/ns"
container_exits_dir = "{root}/exits"
container_attach_socket_dir = "{root}/attach"
cdi_spec_dirs = ["{root}/cdi"]
hooks_dir = []
blockio_config_file = "{root}/blockio.yaml"
irqbalance_config_restore_file = "disable"
[crio.runtime.runtimes.runc]
runtime_path = "{runtime}"
runtime_root = "{root}/runc"
monitor_path = "{bin}/conmon"
monitor_cgroup = "pod"

[crio.image]
pause_image = "{image}"
pause_command = "/probe"
signature_policy = "{root}/policy.json"
signature_policy_dir = "{root}/policies"

[crio.network]
network_dir = "{root}/cni.d"
plugin_dirs = ["{root}/cni"]

[crio.nri]
enable_nri = true
nri_listen = "{root}/nri.sock"
nri_plugin_dir = "{root}/plugins"
nri_plugin_config_dir = "{root}/conf.d"
"""

REGISTRIES = """\
[[registry]]
prefix = "{name}"
location = "{address}"
insecure = true
"""


class Crio(Node):
    """CRI-O as a Node."""

    name = "cri-o"
    version = CRIO
    nri = "v0.9.1-0.20250219030224-e597e7849f24"
    differs: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(
            (
                "Arguments", "Namespaces: new, the host's", "Namespaces: of another process", "sysctl",
                "seccomp filter", "I/O priority", "Scheduler", "Memory policy", "Network devices",
                "UpdatePodSandbox", "Validation: by a plugin of this package",
                "Validation: by a plugin of the reference",
                "Resource Director Technology: class of service, schemata",
                "Several plugins: merged as nri_sync.runtime predicts",
                "Several plugins: conflicts about arguments, namespaces and what came with them",
            ),
            "not in this release of NRI",
        ),
        "CDI devices": "ignored by the runtime",
        "Class of block I/O: an unknown one fails the creation": "ignored by the runtime",
        "Unsolicited updates: the pids limit": "yes",
    }  # fmt: skip

    def __init__(self, tools: Tools) -> None:
        super().__init__(tools)
        self._programs = build_crio()
        runtime = self.runc()
        text = CONFIG.format(root=self.root, image=IMAGE, bin=self._programs, runtime=runtime)
        (self.root / "crio.conf").write_text(text)
        policy = {"default": [{"type": "insecureAcceptAnything"}]}
        (self.root / "policy.json").write_text(json.dumps(policy))
        (self.root / "registries.d").mkdir()
        self._registries = self.root / "registries.conf"
        self._has_image = False

    def command(self) -> list[str]:
        return [
            str(self._programs / "crio"), "--config", str(self.root / "crio.conf"), "--config-dir", "",
            "--registries-conf", str(self._registries), "--disable-hostport-mapping",
            "--registries-conf-dir", str(self.root / "registries.d"), "--log-level", "debug",
        ]  # fmt: skip

    def start(self) -> None:
        if self._has_image:
            super().start()
            return
        with registry.serve(self.tools.image, self.tools.owned) as address:
            name = IMAGE.partition("/")[0]
            self._registries.write_text(REGISTRIES.format(name=name, address=address))
            super().start()
            for image in IMAGES:
                self.cri.call("PullImage", image={"image": image})
            self._has_image = True
