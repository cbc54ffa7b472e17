"""Builds CRI-O from its Go module, unmodified like containerd; see build.py. conmon comes from Debian."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from tests.e2e.build import CACHE, fetch_debian, run, with_libseccomp

__all__ = ["CRICTL", "CRIO", "build_crictl", "build_crio"]

CRIO = "v1.34.0"
CRICTL = "v1.36.0"

_TAGS = "containers_image_openpgp,containers_image_ostree_stub,exclude_graphdriver_btrfs,osusergo,netgo,seccomp"


def build_crio() -> Path:
    """The directory with crio, pinns and conmon. Raises RuntimeError if conmon is unavailable."""
    target = CACHE / f"crio-{CRIO}"
    if (target / "crio").exists():
        return target
    target.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    module = json.loads(run("mod", "download", "-json", f"github.com/cri-o/cri-o@{CRIO}"))
    source = Path(module["Dir"])
    pinns = ["cc", "-std=c99", "-O2", "-static", "-o", str(target / "pinns")]
    subprocess.run([*pinns, *map(str, sorted(source.glob("pinns/src/*.c")))], check=True)
    shutil.copy(_conmon(), target / "conmon")
    arguments = ["-mod=mod", "-trimpath", "-ldflags", "-s -w", "-tags", _TAGS]
    target_file = str(target / "crio")
    run("build", *arguments, "-o", target_file, "./cmd/crio", cwd=source, env=with_libseccomp())
    print(f"{time.monotonic() - began:6.1f} s  cri-o {CRIO}", flush=True)
    return target


def build_crictl() -> Path:
    """The program."""
    target = CACHE / f"crictl-{CRICTL}"
    if not target.exists():
        began = time.monotonic()
        arguments = ["-trimpath", "-ldflags", "-s -w"]
        module = f"sigs.k8s.io/cri-tools/cmd/crictl@{CRICTL}"
        with tempfile.TemporaryDirectory(prefix="nri", dir=CACHE) as directory:
            run("install", *arguments, module, env={"GOBIN": directory, "CGO_ENABLED": "0"})
            (Path(directory) / "crictl").rename(target)
        print(f"{time.monotonic() - began:6.1f} s  crictl {CRICTL}", flush=True)
    return target


def _conmon() -> str:
    found = shutil.which("conmon")
    if found is None:
        found = str(fetch_debian("conmon") / "usr" / "bin" / "conmon")
    return found
