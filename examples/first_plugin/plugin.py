"""Gives a container the device that an annotation of its pod names: ``device.example.com: /dev/fuse``."""

import logging
import sys

import nri_sync
from nri_sync import api, kit

# Any author of a pod can write the annotation. These are the devices that pods may have.
ALLOWED = ["/dev/fuse", "/dev/net/tun", "/dev/null", "/dev/zero"]


class DeviceInjector(nri_sync.Plugin):
    def create_container(self, pod, container):
        path = api.effective_annotation(pod, "device.example.com", kit.container_name(container))
        if path is not None:
            kit.require_allowed("device", path, ALLOWED)
            device = kit.host_device(path)
            return api.Adjustment().add_device(path, device.type, device.major, device.minor)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    socket_path = sys.argv[1] if sys.argv[1:] else None
    plugin = DeviceInjector()
    nri_sync.run_forever(
        nri_sync.Stub(plugin, name="device-injector", idx="10", socket_path=socket_path)
    )
