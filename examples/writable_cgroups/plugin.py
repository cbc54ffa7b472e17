"""Makes cgroups writable for containers with the annotation ``writable-cgroups.noderesource.dev: "true"``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from nri_sync import api, kit

__all__ = ["WritableCgroups", "delegates"]

logger = logging.getLogger("writable-cgroups")

MOUNT = "/sys/fs/cgroup"

known = kit.Annotations("noderesource.dev")
WRITABLE = known.declare("writable-cgroups", str)


class WritableCgroups:
    """Makes /sys/fs/cgroup writable in containers, as annotations of their pods request.

    ``mountinfo`` is the host's file. If its cgroup mount lacks ``nsdelegate``, a container could leave its own
    cgroup, and the plugin makes nothing writable. ``namespaces`` are patterns of namespaces whose pods may ask.
    """

    def __init__(self, mountinfo: Path, namespaces: Sequence[str]) -> None:
        self.namespaces = namespaces
        try:
            self.allowed = delegates(mountinfo)
        except OSError as error:
            logger.warning("unknown whether cgroups may be writable: %s", error)
            self.allowed = False

    def create_container(
        self, pod: api.PodSandbox, container: api.Container
    ) -> api.Adjustment | None:
        if WRITABLE.get(pod, container) != "true":
            return None  # only exactly that value, so that no pod gets it by mistake
        kit.require_allowed("namespace", pod.namespace, self.namespaces)
        if not self.allowed:
            logger.warning("the host's cgroup mount has no nsdelegate: cgroups stay read-only")
            return None
        mount = next((mount for mount in container.mounts if mount.destination == MOUNT), None)
        if mount is None:
            raise ValueError(f"no {MOUNT} mount found to modify, this is unexpected")
        options = [option for option in mount.options if option != "ro"]
        if "rw" not in options:
            options.append("rw")
        if options == list(mount.options):
            return None
        logger.info("%s is writable", MOUNT)
        return (
            api.Adjustment()
            .remove_mount(MOUNT)
            .add_mount(MOUNT, source=mount.source, type=mount.type, options=options)
        )

    def run_pod_sandbox(self, pod: api.PodSandbox) -> None:
        known.warn(pod)


def delegates(mountinfo: Path) -> bool:
    """Return whether processes cannot leave their cgroup namespace, from a proc_pid_mountinfo(5) file.
    Raises OSError."""
    for line in mountinfo.read_text().splitlines():
        mount, _, filesystem = line.partition(" - ")
        place = mount.split()[4]
        kind, _, options = filesystem.split(maxsplit=2)
        if kind == "cgroup2" and place in (MOUNT, f"{MOUNT}/unified"):
            return "nsdelegate" in options.split(",")
    return False


def main() -> int:
    """Run until the program is stopped."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--host-mount-file", type=Path, default=Path("/host/proc/1/mountinfo"),
        help="the host's /proc/1/mountinfo",
    )  # fmt: skip
    parser.add_argument(
        "--namespace", action="append", default=[], metavar="PATTERN",
        help="a namespace whose pods may ask; may be repeated; default none",
    )  # fmt: skip
    kit.add_options(parser, name="writable-cgroups", idx="10")
    parsed = parser.parse_args()
    return kit.run(
        lambda: WritableCgroups(parsed.host_mount_file, parsed.namespace), kit.Options.of(parsed)
    )


if __name__ == "__main__":
    sys.exit(main())
