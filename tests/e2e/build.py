"""Builds the programs for the tests: containerd, its shim, runc, and an image; once for each set of versions.

``python -m tests.e2e`` builds them before the tests. That needs Go, a C compiler, and the Go module proxy. All
files are kept in .cache/e2e of the source directory. Linking also needs libseccomp: if it is missing, and there is
apt, the script fetches Debian's libseccomp-dev.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.interop.gopeer import go_command

__all__ = [
    "CACHE",
    "CONTAINERD",
    "IMAGE",
    "IMAGES",
    "OWNED",
    "Tools",
    "build",
    "fetch_debian",
    "run",
    "with_libseccomp",
]

CONTAINERD = "v2.4.2"
RUNC = "v1.5.2"
#: The release with which this containerd is built.
CRI_API = "v0.37.0"
IMAGE = "nri-sync.test/probe:1"
#: One with a user, volumes and more.
OWNED = "nri-sync.test/owned:1"
#: The configurations of both.
IMAGES: dict[str, dict[str, Any]] = {
    IMAGE: {"Entrypoint": ["/probe"], "Env": ["PATH=/", "FROM_IMAGE=yes"]},
    OWNED: {
        "Entrypoint": ["/probe"],
        "Cmd": ["of-image"],
        "Env": ["PATH=/", "FROM_IMAGE=yes", "ONLY_IMAGE=1"],
        "User": "1000:2000",
        "WorkingDir": "/tmp",
        "Volumes": {"/cache/": {}, "/data": {}},
        "Labels": {"org.example.role": "owner"},
    },
}

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent.parent / ".cache" / "e2e"

_SMALL = ("-trimpath", "-ldflags", "-s -w")


class Tools:
    """The paths of the programs and files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.containerd = directory / "containerd"
        self.shim = directory / "containerd-shim-runc-v2"
        self.ctr = directory / "ctr"
        self.runc = directory / "runc"
        self.probe = directory / "probe"
        #: The archive of IMAGE, and that of OWNED.
        self.image = directory / "image.tar"
        self.owned = directory / "owned.tar"
        self.cri = directory / "cri.pb"


def build() -> Tools:
    """Build missing programs. Prints the steps that take long."""
    key = hashlib.sha256(repr((CONTAINERD, RUNC, CRI_API)).encode())
    for path in (HERE / "build.py", HERE / "probe" / "main.go"):
        key.update(path.read_bytes())
    tools = Tools(CACHE / f"tools-{key.hexdigest()[:12]}")
    if tools.cri.exists():  # the last file to be built
        return tools
    tools.directory.mkdir(parents=True, exist_ok=True)
    module = "github.com/containerd/containerd/v2/cmd"
    _install(tools, *_SMALL, f"{module}/containerd@{CONTAINERD}", f"{module}/ctr@{CONTAINERD}")
    _install(tools, *_SMALL, "-tags", "no_grpc", f"{module}/containerd-shim-runc-v2@{CONTAINERD}")
    _build_runc(tools)
    run("build", *_SMALL, "-o", str(tools.probe), ".", cwd=HERE / "probe", env={"CGO_ENABLED": "0"})
    _write_image(tools.probe, IMAGE, tools.image)
    _write_image(tools.probe, OWNED, tools.owned)
    _describe_cri(tools.cri)
    for old in CACHE.glob("tools-*"):
        if old != tools.directory:
            shutil.rmtree(old)
    return tools


def run(*arguments: str, cwd: Path = HERE, env: Mapping[str, str] | None = None) -> str:
    environment = {
        **os.environ,
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "GOFLAGS": "-buildvcs=false",
    }
    done = subprocess.run(
        [go_command(), *arguments], cwd=cwd, env={**environment, **(env or {})},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"go {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def _install(tools: Tools, *arguments: str, **env: str) -> None:
    began = time.monotonic()
    run("install", *arguments, env={"GOBIN": str(tools.directory), "CGO_ENABLED": "0", **env})
    print(f"{time.monotonic() - began:6.1f} s  {arguments[-1]}", flush=True)


def _build_runc(tools: Tools) -> None:
    """Build runc statically, because containers have their own libraries; that needs cgo."""
    tags = "seccomp,osusergo,netgo"
    flags = "-s -w -linkmode external -extldflags -static"
    module = f"github.com/opencontainers/runc@{RUNC}"
    _install(tools, "-trimpath", "-tags", tags, "-ldflags", flags, module, **with_libseccomp())


def with_libseccomp() -> dict[str, str]:
    """The environment for building programs that use cgo and libseccomp."""
    env = {"CGO_ENABLED": "1"}
    exists = ["pkg-config", "--exists", "libseccomp"]
    if shutil.which(exists[0]) is None or subprocess.run(exists, check=False).returncode != 0:
        root = fetch_debian("libseccomp-dev")
        (library,) = root.glob("usr/lib/*/libseccomp.a")
        # Replaces pkg-config. Go caches its output, without checking the path of the library.
        env["PKG_CONFIG"] = "true"
        env["CGO_CFLAGS"] = f"-O2 -I{root}/usr/include"
        env["CGO_LDFLAGS"] = f"-L{library.parent} -lseccomp"
    return env


def fetch_debian(package: str) -> Path:
    """Unpack a Debian package without installing it; returns the directory."""
    root = CACHE / package
    if root.exists():
        return root
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise RuntimeError(f"Debian's {package}, or what is like it, is needed: install it")
    with tempfile.TemporaryDirectory(prefix="nri") as directory:
        fetch = ["apt-get", "download", "-q", package]
        fetched = subprocess.run(fetch, cwd=directory, capture_output=True, text=True, check=False)
        if fetched.returncode != 0:
            raise RuntimeError(f"{' '.join(fetch)} failed:\n{fetched.stdout}{fetched.stderr}")
        (archive,) = Path(directory).glob("*.deb")
        partial = root.with_suffix(".partial")
        subprocess.run(["dpkg-deb", "-x", str(archive), str(partial)], check=True)
        partial.rename(root)
    return root


def _write_image(program: Path, image: str, target: Path) -> None:
    """One of IMAGES, with one program, in the format of ``docker save``."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        for name in ("tmp", "etc"):
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(directory)
        _add(archive, "probe", program.read_bytes(), 0o755)
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    config = json.dumps(
        {
            "architecture": run("env", "GOARCH").strip(),
            "os": "linux",
            "config": IMAGES[image],
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
    ).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": [image], "Layers": [f"{digest}/layer.tar"]}]
    with tarfile.open(target, mode="w") as archive:
        _add(archive, name, config)
        _add(archive, f"{digest}/layer.tar", layer.getvalue())
        _add(archive, "manifest.json", json.dumps(manifest).encode())


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), mode
    archive.addfile(info, io.BytesIO(data))


def _describe_cri(target: Path) -> None:
    """Write the schema of CRI as a descriptor set, from which clients are made at run time."""
    from grpc_tools import protoc

    module = json.loads(run("mod", "download", "-json", f"k8s.io/cri-api@{CRI_API}"))
    source = Path(module["Dir"]) / "pkg" / "apis" / "runtime" / "v1"
    arguments = [f"-I{source}", f"--descriptor_set_out={target}", "--include_imports", "api.proto"]
    if protoc.main(["protoc", *arguments]) != 0:
        raise RuntimeError(f"protoc failed for {source}/api.proto")
