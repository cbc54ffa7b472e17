"""containerd with NRI."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.e2e.build import CONTAINERD, IMAGE, Tools
from tests.e2e.node import Node

__all__ = ["Containerd"]

CONFIG = """\
version = 3
root = "{root}/root"
state = "{root}/state"
temp = "{root}/tmp"
imports = []
disabled_plugins = ["io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]

[grpc]
  address = "{root}/c.sock"
[debug]
  level = "debug"

[plugins."io.containerd.nri.v1.nri"]
  disable = false
  socket_path = "{nri_socket}"
  plugin_path = "{root}/plugins"
  plugin_config_path = "{root}/conf.d"
  # The default is five seconds. The other timeout has its default.
  plugin_registration_timeout = "30s"

[plugins."io.containerd.service.v1.tasks-service"]
  blockio_config_file = "{root}/blockio.yaml"

[plugins."io.containerd.internal.v1.opt"]
  path = "{root}/opt"

[plugins."io.containerd.shim.v1.manager"]
  socket_dir = "{root}/s"

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  use_local_image_pull = true
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{image}"

[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = false
  disable_apparmor = true
  disable_hugetlb_controller = {disable_hugetlb}
  netns_mounts_under_state_dir = true
  cdi_spec_dirs = ["{root}/cdi"]
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      runtime_path = "{tools.shim}"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        BinaryName = "{runc}"
        Root = "{root}/state/runc"
        SystemdCgroup = false
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["{root}/cni"]
    conf_dir = "{root}/cni.d"
"""


class Containerd(Node):
    """containerd as a Node."""

    name = "containerd"
    version = CONTAINERD
    nri = "v0.12.3"
    #: Of its configuration; its default is True.
    disable_hugetlb_controller = False

    def __init__(self, tools: Tools) -> None:
        super().__init__(tools)
        (self.root / "s").mkdir()
        self._has_image = False
        self._config = CONFIG.format(
            root=self.root, image=IMAGE, tools=tools, runc=self.runc(), nri_socket=self.nri_socket,
            disable_hugetlb=json.dumps(self.disable_hugetlb_controller),
        )  # fmt: skip
        self.configure()

    def configure(self, more: str = "") -> None:
        """Write the configuration, with ``more`` at its end, for the next start."""
        (self.root / "config.toml").write_text(self._config + more)

    def command(self) -> list[str]:
        return [str(self.tools.containerd), "-c", str(self.root / "config.toml")]

    def start(self) -> None:
        super().start()
        if not self._has_image:
            self.import_image(self.tools.image)
            self.import_image(self.tools.owned)
            self._has_image = True

    def import_image(self, archive: Path) -> None:
        command = [str(self.tools.ctr), "-a", str(self.root / "c.sock"), "-n", "k8s.io"]
        subprocess.run(
            [*command, "images", "import", str(archive)], check=True, capture_output=True
        )
