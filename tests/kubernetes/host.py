"""The changes that a kubelet makes on its host outside its own directories, and their reversal."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

__all__ = ["RECORD", "record", "restore", "restore_sysctls"]

#: The state before, in the node's directory. machine.clean_up() restores it, even after the tests were killed.
RECORD = "host.json"

# The kubelet sets these at its start (setupKernelTunables of pkg/kubelet/cm).
_SYSCTLS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
# Directories that cannot be configured, from the innermost.
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
# Directories with files of the kubelet, or of pods of the tests.
_OWN_FILES = ("/var/lib/kubelet/device-plugins", "/run/nri-plugins")
_SYSCTL = Path("/proc/sys")


def record(root: Path) -> None:
    """Record the state, before the kubelet starts."""
    state = {
        "sysctls": {name: (_SYSCTL / name).read_text() for name in _SYSCTLS},
        "missing": [name for name in _DIRECTORIES if not Path(name).exists()],
    }
    (root / RECORD).write_text(json.dumps(state))


def restore_sysctls(root: Path) -> None:
    """Restore the settings that differ from the record."""
    for name, value in json.loads((root / RECORD).read_text())["sysctls"].items():
        path = _SYSCTL / name
        if path.read_text() != value:
            path.write_text(value)


def restore(root: Path) -> None:
    """Undo all changes of the kubelet. Idempotent; does nothing without a record."""
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
