"""Builds a release and checks it.

    python tools/release.py build            wheel and sdist into dist/, built twice and compared byte for byte
    python tools/release.py check            the files of dist/: metadata, contents, bill of materials, licences
    python tools/release.py audit            known vulnerabilities of the oldest and the newest dependencies
    python tools/release.py rehearse         upload dist/ to an index on this machine, and install from there

`make release` runs the first two and the last. tox has the packages that they need (`tox -e release`). Both builds
start from the committed files, and the archives have the time of the commit. `audit` queries the vulnerability
service of the package index, and fails if the service does not answer.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import os
import re
import secrets
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["check_versions", "main", "normalize", "versions"]

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
# The licences of the dependencies, as named by pip-licenses.
LICENSES = (
    "3-Clause BSD License", "Apache Software License", "Apache-2.0", "Apache-2.0 AND BSD-2-Clause",
    "BSD License", "BSD-2-Clause", "BSD-3-Clause",
    "MIT", "MIT License", "MPL-2.0", "PSF-2.0",
)  # fmt: skip
# Time limit for the start of the index on this machine, in seconds.
_INDEX_STARTS = 30.0


def _run(
    command: Sequence[str], *, cwd: Path | None = None, environ: Mapping[str, str] | None = None
) -> None:
    print("$", " ".join(command), flush=True)
    env = {**os.environ, **(environ or {})}
    subprocess.run(command, cwd=cwd or ROOT, env=env, check=True)


def _git(*arguments: str) -> bytes:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout


def normalize(sdist: bytes, when: int) -> bytes:
    """The same source distribution, independent of the build: with fixed order, owners and times."""
    packed = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(sdist)) as before,
        gzip.GzipFile(fileobj=packed, mode="wb", filename="", mtime=when) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as after,
    ):
        for member in sorted(before.getmembers(), key=lambda member: member.name):
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mtime = when
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            member.pax_headers = {}
            after.addfile(member, before.extractfile(member) if member.isfile() else None)
    return packed.getvalue()


def _build(directory: Path, when: int) -> dict[str, bytes]:
    """Build from the committed files, unpacked into ``directory``; returns the contents of each file by name."""
    source = directory / "source"
    source.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(_git("archive", "HEAD"))) as archive:
        archive.extractall(source)
    environ = {"SOURCE_DATE_EPOCH": str(when)}
    _run([sys.executable, "-m", "build", "--outdir", str(directory)], cwd=source, environ=environ)
    built = {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}
    return {
        name: normalize(content, when) if name.endswith(".tar.gz") else content
        for name, content in built.items()
    }


def build() -> None:
    """Build twice; write the files to dist/ if both builds are equal."""
    when = int(_git("log", "-1", "--format=%ct"))
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        one, two = (_build(Path(directory) / "build", when) for directory in (first, second))
    if one != two:
        differing = sorted(name for name in one.keys() | two if one.get(name) != two.get(name))
        sys.exit(f"the two builds differ in {', '.join(differing)}")
    DIST.mkdir(exist_ok=True)
    for old in DIST.iterdir():
        old.unlink()
    for name, content in sorted(one.items()):
        (DIST / name).write_bytes(content)
        print(f"sha256:{hashlib.sha256(content).hexdigest()}  {name}, both times")


def _files() -> list[str]:
    found = sorted(str(path) for path in DIST.glob("nri_sync-*") if path.suffix in (".whl", ".gz"))
    if len(found) != 2:
        sys.exit(f"{DIST}: expected a wheel and an sdist; `build` makes both")
    return found


def _wheel() -> str:
    return next(path for path in _files() if path.endswith(".whl"))


def _environment(directory: Path, *install: str) -> str:
    """Create a virtual environment with these packages; returns its interpreter."""
    venv.create(directory, with_pip=True)
    python = str(directory / "bin" / "python")
    _run([python, "-m", "pip", "install", "--quiet", *install])
    return python


def versions(root: Path = ROOT) -> dict[str, str]:
    """The version of the project in each file that has it; in the changelog, that of the newest section."""
    patterns = {
        "nri_sync/__init__.py": r'^__version__ = "(.+)"$',
        "CITATION.cff": r"^version: (.+)$",
        "CHANGELOG.md": r"^## \[(.+?)\]",
    }
    found = {}
    for name, pattern in patterns.items():
        match = re.search(pattern, (root / name).read_text("utf-8"), re.MULTILINE)
        if match is None:
            sys.exit(f"{name} has no version")
        found[name] = match[1]
    return found


def check_versions(root: Path = ROOT) -> None:
    """Exit if the files do not have the same version. A development version is only in the package."""
    found = versions(root)
    if ".dev" not in found["nri_sync/__init__.py"] and len(set(found.values())) > 1:
        sys.exit("the versions differ: " + ", ".join(f"{n} has {v}" for n, v in found.items()))


def check() -> None:
    """Check versions, metadata, contents, and the licences of all dependencies; write the bill of materials."""
    check_versions()
    _run([sys.executable, "-m", "twine", "check", "--strict", *_files()])
    _run(["check-wheel-contents", _wheel()])
    with tempfile.TemporaryDirectory() as directory:
        wheel = f"{_wheel()}[cli,metrics,otel,toml,yaml]"
        python = _environment(Path(directory), wheel)
        _run([python, "-m", "pip", "uninstall", "--quiet", "--yes", "pip", "setuptools"])
        bill = DIST / f"{Path(_wheel()).name.partition('-py3')[0]}.cdx.json"
        _run(
            [
                "cyclonedx-py",
                "environment",
                "--output-reproducible",
                "--of",
                "JSON",
                "-o",
                str(bill),
                python,
            ]
        )
        _run(
            [
                "pip-licenses",
                f"--python={python}",
                "--order=license",
                f"--allow-only={';'.join(LICENSES)}",
            ]
        )


def audit() -> None:
    """Look for known vulnerabilities of the dependencies. A dependency without a result is a failure."""
    lowest = ROOT / "tools" / "lowest.txt"
    command = [sys.executable, "-m", "pip_audit", "--strict", "--progress-spinner=off"]
    with tempfile.TemporaryDirectory() as directory:
        newest = Path(directory) / "newest.txt"
        python = _environment(Path(directory) / "venv", f"{ROOT}[cli,metrics,otel,toml,yaml]")
        frozen = subprocess.run(
            [python, "-m", "pip", "freeze", "--exclude", "nri_sync"],
            stdout=subprocess.PIPE,
            check=True,
        )
        newest.write_bytes(frozen.stdout)
        for requirements in (lowest, newest):
            _run([*command, "--no-deps", "--disable-pip", "-r", str(requirements)])


def rehearse() -> None:
    """Upload to a package index on this machine, install from it, and run the installed command."""
    with tempfile.TemporaryDirectory() as directory:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        packages = Path(directory) / "packages"
        packages.mkdir()
        url = f"http://127.0.0.1:{port}"
        index = subprocess.Popen(
            [
                "pypi-server",
                "run",
                "-i",
                "127.0.0.1",
                "-p",
                str(port),
                "-a",
                ".",
                "-P",
                ".",
                str(packages),
            ],
            cwd=directory,
        )
        try:
            _await(url)
            credentials = {"TWINE_USERNAME": "release", "TWINE_PASSWORD": secrets.token_hex()}
            upload = [sys.executable, "-m", "twine", "upload", "--repository-url", url, *_files()]
            _run(upload, environ=credentials)
            version = Path(_wheel()).name.split("-")[1]
            wanted = f"nri_sync[cli]=={version}"
            python = _environment(
                Path(directory) / "venv", "--pre", "--extra-index-url", f"{url}/simple/", wanted
            )
            _run([python, "-m", "nri_sync", "--version"], cwd=Path(directory))
            _run([python, "-m", "nri_sync", "demo"], cwd=Path(directory))
        finally:
            index.terminate()
            index.wait()


def _await(url: str) -> None:
    give_up = time.monotonic() + _INDEX_STARTS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError as error:
            if time.monotonic() > give_up:
                sys.exit(f"the index at {url} does not answer: {error}")
            time.sleep(0.1)


STEPS = {"build": build, "check": check, "audit": audit, "rehearse": rehearse}


def main(arguments: Sequence[str]) -> int:
    """Run the named steps; returns 0, or exits at the first failure."""
    parser = argparse.ArgumentParser(description="Build a release and check it.")
    parser.add_argument("steps", nargs="+", choices=STEPS, metavar="STEP", help=", ".join(STEPS))
    for step in parser.parse_args(arguments).steps:
        try:
            STEPS[step]()
        except subprocess.CalledProcessError as error:
            print(
                f"release: {step} failed: {error.cmd[0]} exited with {error.returncode}",
                file=sys.stderr,
            )
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
