"""What a kubelet changes on its host outside of its own directories, and how it is undone."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

__all__ = ["RECORD", "record", "restore", "restore_sysctls"]

#: The state before, in the directory of the node: machine.clean_up() restores it, also when the tests were killed.
RECORD = "host.json"

# The kubelet sets them when it starts (setupKernelTunables of pkg/kubelet/cm).
_SYSCTLS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
# Places that cannot be configured; from the innermost.
_DIRECTORIES = (
    "/var/lib/kubelet/device-plugins",
    "/var/lib/kubelet",
    "/var/log/containers",
    "/run/containerd/fifo",
    "/run/containerd/runc/k8s.io",
    "/run/containerd/runc",
    "/run/containerd",
    "/opt/containerd/bin",
    "/opt/containerd/lib",
    "/opt/containerd",
    "/run/nri-plugins",
)
# Those with files of the kubelet, or of pods of the tests.
_OWN_FILES = ("/var/lib/kubelet/device-plugins", "/run/nri-plugins")
_SYSCTL = Path("/proc/sys")


def record(root: Path) -> None:
    """Write down the state, before the kubelet starts."""
    state = {
        "sysctls": {name: (_SYSCTL / name).read_text() for name in _SYSCTLS},
        "missing": [name for name in _DIRECTORIES if not Path(name).exists()],
    }
    (root / RECORD).write_text(json.dumps(state))


def restore_sysctls(root: Path) -> None:
    """Set back what differs."""
    for name, value in json.loads((root / RECORD).read_text())["sysctls"].items():
        path = _SYSCTL / name
        if path.read_text() != value:
            path.write_text(value)


def restore(root: Path) -> None:
    """Undo all that the kubelet has done. Idempotent; does nothing without a record."""
    if not (root / RECORD).exists():
        return
    restore_sysctls(root)
    for link in Path("/var/log/containers").glob("*"):
        with contextlib.suppress(OSError):
            if link.is_symlink() and str(root) in str(link.readlink()):
                link.unlink()
    missing = json.loads((root / RECORD).read_text())["missing"]
    for name in _OWN_FILES:
        if name in missing:
            shutil.rmtree(name, ignore_errors=True)
    for name in missing:
        with contextlib.suppress(OSError):
            Path(name).rmdir()
