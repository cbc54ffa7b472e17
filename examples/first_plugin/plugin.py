"""Gives a container the device that an annotation of its pod names: ``device.example.com: /dev/fuse``."""

import logging
import os
import sys

import nri_sync
from nri_sync import api


class DeviceInjector(nri_sync.Plugin):
    def create_container(self, pod, container):
        path = api.effective_annotation(pod, "device.example.com", container.name)
        if path is not None:
            device = os.stat(path).st_rdev
            return api.Adjustment().add_device(path, "c", os.major(device), os.minor(device))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    socket_path = sys.argv[1] if sys.argv[1:] else None
    plugin = DeviceInjector()
    nri_sync.run_forever(
        nri_sync.Stub(plugin, name="device-injector", idx="10", socket_path=socket_path)
    )
