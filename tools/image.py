"""Builds the image of a plugin without Docker, a registry or a container runtime.

    python tools/image.py examples/ulimit_adjuster plugin.tar
    python tools/image.py examples/ulimit_adjuster plugin.tar --python 3.14
    python tools/image.py examples/ulimit_adjuster plugin.tar --name registry.internal/ulimits:1 --base root.tar

The image has two layers: a root file system with Python, and the plugin's folder with nri_sync and the packages of
its requirements.txt. PLUGIN is a folder with a plugin.py. The output is an archive in the format of `docker save`,
for `ctr images import`, `podman load` or `skopeo copy docker-archive:plugin.tar docker://...`.

The root file system is that of the Debian release with the chosen Python. mmdebstrap creates it once, in two
minutes, and needs root or a user namespace. --base names another one: a tar archive with a python3 in /usr/bin.
The packages are wheels for that Python, from the index in pip's configuration.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import io
import json
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["debian_base", "main", "make"]

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "image"
#: The releases of Debian, by their versions of Python.
SUITES = {"3.11": "bookworm", "3.13": "trixie", "3.14": "forky", "3.15": "forky"}
DEFAULT = "3.11"
# For the wheels of grpcio.
_LIBRARY = "libstdc++6"
# The index of a suite before its release may be past its date.
_APT_OPTION = 'Acquire::Check-Valid-Until "false"'
_UNUSED = ("doc", "info", "locale", "man")
# The platform tags of compiled wheels.
_PLATFORMS = ("manylinux_2_28", "manylinux_2_17", "manylinux2014")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
# As in examples/Dockerfile, except for the directory of the packages.
_ENV = [
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONPATH=/plugin:/plugin/packages",
    "PYTHONUNBUFFERED=1",
    "PYTHONDONTWRITEBYTECODE=1",
]
_USER = "65532:65532"
_ENTRYPOINT = ["python", "/plugin/plugin.py"]


def debian_base(version: str = DEFAULT) -> Path:
    """A Debian root file system with a version of Python, as a tar archive; created if it is missing."""
    base = CACHE / f"{SUITES[version]}-python{version}.tar"
    if base.exists():
        return base
    if shutil.which("mmdebstrap") is None:
        raise RuntimeError("mmdebstrap is needed: `apt-get install mmdebstrap`; or pass --base")
    CACHE.mkdir(parents=True, exist_ok=True)
    partial = base.with_suffix(".partial.tar")
    command = ["mmdebstrap", "--variant=essential", f"--include=python{version},{_LIBRARY}"]
    command += ["--quiet", f"--aptopt={_APT_OPTION}"]
    command += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _UNUSED]
    subprocess.run([*command, SUITES[version], str(partial)], check=True)
    partial.rename(base)
    return base


def make(plugin: Path, target: Path, name: str, base: Path) -> None:
    """Write the image of the plugin in the folder ``plugin`` to ``target``.

    Raises ValueError if the folder has no plugin, or the base has no Python.
    """
    if not (plugin / "plugin.py").is_file():
        raise ValueError(f"{plugin} has no plugin.py")
    version = _python(base)
    with tempfile.TemporaryDirectory(prefix="image") as directory:
        tree = Path(directory) / "plugin"
        collect(plugin, tree, version, Path(directory))
        layer = Path(directory) / "layer.tar"
        with tarfile.open(layer, "w") as archive:
            # Debian has no command "python", only python3.
            link = tarfile.TarInfo("usr/local/bin/python")
            link.type, link.linkname = tarfile.SYMTYPE, f"/usr/bin/python{version}"
            archive.addfile(link)
            archive.add(tree, "plugin", filter=_owned_by_root)
        _write(target, name, [base, layer])


def _python(base: Path) -> str:
    """The version of Python, such as 3.11, in a root file system."""
    with tarfile.open(base) as archive:
        for member in archive:
            found = re.fullmatch(r"(?:\./)?usr/bin/python(3\.\d+)", member.name)
            if found:
                return found[1]
    raise ValueError(f"{base} has no /usr/bin/python3.N")


def collect(plugin: Path, tree: Path, version: str, scratch: Path) -> None:
    """Fill the directory for /plugin: the plugin's folder, its imports, and the packages."""
    ignore = shutil.ignore_patterns("__pycache__")
    if plugin.resolve().parent == ROOT / "examples":
        # The examples import each other as a package.
        place = tree / "examples" / plugin.name
        shutil.copytree(plugin, place, ignore=ignore)
        shutil.copy(ROOT / "examples" / "__init__.py", tree / "examples")
        (tree / "plugin.py").symlink_to(place.relative_to(tree) / "plugin.py")
    else:
        shutil.copytree(plugin, tree, ignore=ignore)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(scratch), str(ROOT)], check=True)
    (wheel,) = scratch.glob("nri_sync-*.whl")
    command = [*pip, "install", "--target", str(tree / "packages"), "--no-compile"]
    command += ["--only-binary=:all:", f"--python-version={version}"]
    command += [f"--platform={item}_{platform.machine()}" for item in _PLATFORMS]
    requirements = plugin / "requirements.txt"
    more = ["--requirement", str(requirements)] if requirements.exists() else []
    subprocess.run([*command, f"nri_sync[yaml] @ {wheel.as_uri()}", *more], check=True)
    # The root file system is read-only in the cluster. Without caches in the image, a plugin starts 0.1 s or more
    # later.
    compiler = shutil.which(f"python{version}")
    if compiler is not None:
        subprocess.run(
            [compiler, "-m", "compileall", "-q", "-s", str(tree.parent), "-p", "/", str(tree)],
            check=False, stderr=subprocess.DEVNULL,
        )  # fmt: skip


def _owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _write(target: Path, name: str, layers: list[Path]) -> None:
    """Write an image in the format of `docker save`."""
    digests = [_digest(layer) for layer in layers]
    config = json.dumps(
        {
            "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {"Env": _ENV, "Entrypoint": _ENTRYPOINT, "User": _USER},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
        }
    ).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    files = [f"{digest}/layer.tar" for digest in digests]
    manifest = [{"Config": config_name, "RepoTags": [name], "Layers": files}]
    with tarfile.open(target, "w") as archive:
        for file, data in (config_name, config), ("manifest.json", json.dumps(manifest).encode()):
            member = tarfile.TarInfo(file)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for file, layer in zip(files, layers):
            archive.add(layer, file, filter=_owned_by_root)


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            found.update(part)
    return found.hexdigest()


@contextlib.contextmanager
def _plain(base: Path) -> Iterator[Path]:
    """The archive, decompressed if it is gzip."""
    with base.open("rb") as file:
        if file.read(2) != b"\x1f\x8b":
            yield base
            return
    with tempfile.NamedTemporaryFile(prefix="image", suffix=".tar") as plain:
        with gzip.open(base) as packed:
            shutil.copyfileobj(packed, plain)
        plain.flush()
        yield Path(plain.name)


def main(arguments: list[str]) -> int:
    """Build an image for the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("plugin", type=Path, help="the folder with plugin.py")
    parser.add_argument("target", type=Path, help="the archive to write")
    parser.add_argument(
        "--name", help="name of the image (default: the name in the example's manifests)"
    )
    root = parser.add_mutually_exclusive_group()
    root.add_argument("--base", type=Path, help="a root file system (default: Debian's)")
    root.add_argument(
        "--python",
        choices=SUITES,
        default=DEFAULT,
        help="version in Debian's (default: %(default)s)",
    )
    parsed = parser.parse_args(arguments)
    default = f"registry.example.com/nri-plugin-{parsed.plugin.resolve().name.replace('_', '-')}"
    try:
        with _plain(parsed.base or debian_base(parsed.python)) as base:
            make(parsed.plugin, parsed.target, parsed.name or f"{default}:0.1.0", base)
    except (OSError, RuntimeError, ValueError, subprocess.CalledProcessError) as error:
        print(f"image: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
