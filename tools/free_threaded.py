"""Runs the tests of the core on a build of Python without the GIL.

    python tools/free_threaded.py VENV [PYTEST ARGUMENT ...]

Takes the newest of PYTHONS on PATH. If there is none, the first call builds Python from Debian's source package,
in .cache/free-threaded: about two minutes. This needs apt, make and a C compiler.

grpcio has no wheel for such a build. The tests of the core need only the classes of its Python part, so that part
is installed with a stand-in for the compiled one. The tests of nri_sync.ttrpc with a server of grpcio do not run.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

__all__ = ["CORE", "PYTHONS", "build", "install_grpcio", "main", "run_tests"]

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "free-threaded"
#: The names of a free-threaded Python, the newest first.
PYTHONS = ("python3.15t", "python3.14t", "python3.13t")
#: The tests that run if the arguments have no path of a test.
CORE = (
    "tests/wire", "tests/net", "tests/rpc", "tests/plugin", "tests/runtime", "tests/test_session.py",
    "tests/test_threads.py", "tests/test_deadline.py", "tests/test_lock_ranks.py", "tests/kit/inventory",
)  # fmt: skip
# The Debian suite, and its source package.
SUITE, SOURCE = "trixie", "python3.13"
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
# Profile-guided optimization would take longer than the tests do.
_CONFIGURE = ("--quiet", "--disable-gil", "--disable-test-modules", "OPT=-O1 -DNDEBUG")
_PACKAGES = (
    "googleapis-common-protos", "hypothesis", "protobuf", "pytest", "pytest-timeout", "pytest-xdist",
    "typing_extensions",
)  # fmt: skip

_STAND_IN = '''"""Stands in for the compiled part of grpcio: codes, numbers, and classes without a function."""

import itertools


class StatusCode:
    ok, cancelled, unknown, invalid_argument, deadline_exceeded, not_found, already_exists = range(7)
    permission_denied, resource_exhausted, failed_precondition, aborted, out_of_range = range(7, 12)
    unimplemented, internal, unavailable, data_loss, unauthenticated = range(12, 17)


_numbers = itertools.count()


class _Numbers(type):
    def __getattr__(cls, name):
        number = next(_numbers)
        setattr(cls, name, number)
        return number


class CompressionAlgorithm(metaclass=_Numbers):
    pass


CompressionLevel = ConnectivityState = LocalConnectionType = CompressionAlgorithm


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    value = globals()[name] = type(name, (Exception,) if name.endswith("Error") else (), {})
    return value
'''


def build() -> Path:
    """Build Python if that is still to be done; returns the interpreter. Raises CalledProcessError."""
    key = hashlib.sha256(repr((SUITE, SOURCE, _CONFIGURE)).encode()).hexdigest()[:12]
    python = CACHE / key / "bin" / f"{SOURCE}t"
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "lock", "w") as lock, tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not python.exists():
            _build(Path(scratch), CACHE / key)
    return python


def _build(scratch: Path, prefix: Path) -> None:
    source = scratch / "source"
    for directory in (source, scratch / "lists" / "partial", scratch / "archives" / "partial"):
        directory.mkdir(parents=True)
    sources = scratch / "sources.list"
    sources.write_text(f"deb-src [signed-by={_KEYRING}] {_mirror()} {SUITE} main\n")
    apt = ["apt-get", "-qq"]
    for option in (
        f"Dir::Etc::sourcelist={sources}", "Dir::Etc::sourceparts=/dev/null", f"Dir::State={scratch}",
        f"Dir::Cache={scratch}", "APT::Sandbox::User=root",
    ):  # fmt: skip
        apt += ["-o", option]
    subprocess.run([*apt, "update"], check=True)
    subprocess.run([*apt, "source", "--download-only", SOURCE], cwd=scratch, check=True)
    (archive,) = scratch.glob("*.orig.tar.xz")
    subprocess.run(["tar", "xf", archive, "-C", source, "--strip-components=1"], check=True)
    with open(CACHE / "build.log", "w") as log:
        for command in (
            ["./configure", *_CONFIGURE, f"--prefix={prefix}"],
            ["make", f"-j{os.cpu_count() or 1}"],
            ["make", "install"],
        ):
            subprocess.run(command, cwd=source, stdout=log, stderr=log, check=True)


def _mirror() -> str:
    """The address of Debian's packages, as apt of this machine has it."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return next(uri for uri in found if uri.rstrip("/").endswith("/debian"))


def install_grpcio(python: Path, site: Path) -> None:
    """Install the Python part of grpcio, from the wheel of another build, and a stand-in for the compiled part."""
    machine = platform.machine()
    with tempfile.TemporaryDirectory() as directory:
        command = [
            str(python),
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
        ]
        command += [
            "--python-version=3.13",
            "--implementation=cp",
            "--abi=cp313",
            f"--dest={directory}",
        ]
        command += [f"--platform={tag}_{machine}" for tag in ("manylinux_2_28", "manylinux2014")]
        subprocess.run([*command, "grpcio"], check=True)
        (wheel,) = Path(directory).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site, [n for n in archive.namelist() if not n.endswith(".so")])
    (site / "grpc" / "_cython" / "cygrpc.py").write_text(_STAND_IN)


def run_tests(venv: Path, arguments: list[str]) -> int:
    """Run the tests in the virtual environment ``venv``; returns pytest's exit code."""
    found = next(filter(None, map(shutil.which, PYTHONS)), None)
    if found is None and not all(map(shutil.which, ("apt-get", "make", "cc"))):
        print(
            f"Left out: PATH has none of {', '.join(PYTHONS)}, and a build needs apt, make and cc"
        )
        return int(os.environ.get("CI") == "true")
    base = found or str(build())
    shutil.rmtree(venv, ignore_errors=True)
    subprocess.run([base, "-m", "venv", str(venv)], check=True)
    python = venv / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    # The newest releases that have a wheel for this Python.
    subprocess.run([*pip, "--only-binary=:all:", *_PACKAGES], check=True)
    (site,) = venv.glob("lib/python*/site-packages")
    install_grpcio(python, site)
    subprocess.run([*pip, "--no-deps", "grpcio-status", "--editable", str(ROOT)], check=True)
    # Else an extension module that needs the GIL would switch it on.
    environ = {
        **os.environ,
        "PYTHON_GIL": "0",
        "PATH": f"{venv}/bin:{os.environ.get('PATH', os.defpath)}",
    }
    subprocess.run(
        [str(python), "-c", "import sys; print(sys.version); sys.exit(sys._is_gil_enabled())"],
        env=environ, check=True,
    )  # fmt: skip
    has_paths = any((ROOT / argument.partition("::")[0]).exists() for argument in arguments)
    command = [str(python), "-m", "pytest", *arguments, *(() if has_paths else CORE)]
    return subprocess.run(command, cwd=ROOT, env=environ, check=False).returncode


def main(arguments: list[str]) -> int:
    """Run the tests for the command line; returns the exit code."""
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    return run_tests(Path(arguments[0]).absolute(), arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
