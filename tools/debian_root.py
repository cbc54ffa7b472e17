"""Runs the tests on a Python of Debian's next release.

    python tools/debian_root.py VERSION VENV [PYTEST ARGUMENT ...]

If PATH has no python$VERSION, the tests run in a Debian root. The first call creates the root with mmdebstrap, in
.cache/debian: about 300 MB, and a minute. Later calls reuse the root. This needs root privileges, and apt.

Inside the root, the tests see the source directory, /tmp and the home directory; all other files are Debian's. The
mounts are in a mount namespace that ends with the command, so no mount remains.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["PYTHONS", "command_in", "is_possible", "main", "make", "run_tests"]

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "debian"
SUITE = "forky"
#: The Python versions in the Debian suite.
PYTHONS = ("3.14", "3.15")
PACKAGES = ("ca-certificates", "git", "mount", *(f"python{version}-venv" for version in PYTHONS))
# The index of an unreleased suite may have expired.
APT_OPTIONS = ('Acquire::Check-Valid-Until "false"',)

# Bind-mounted into the root from this machine: devices, and the configuration of the network and of pip.
_SHARED = (
    "/proc",
    "/sys",
    "/dev",
    "/tmp",
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/ssl",
    "/etc/pip.conf",
)
# $1 is the root, $2 the working directory, $3 the paths to bind-mount, one a line; the rest is the command.
_ENTER = """
set -eu
root=$1 directory=$2 shared=$3
shift 3
echo "$shared" | while read -r path; do
    if [ -d "$path" ]; then
        mkdir -p "$root$path"
    else
        mkdir -p "$(dirname "$root$path")"
        [ -e "$root$path" ] || : > "$root$path"
    fi
    mount --rbind "$path" "$root$path"
done
exec chroot "$root" /usr/bin/env -C "$directory" "$@"
"""


def is_possible() -> bool:
    """Whether this machine can create such a root: it has apt, and the caller is root."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def make() -> Path:
    """Create the root if it is missing; returns its directory."""
    key = hashlib.sha256(repr((SUITE, PACKAGES, APT_OPTIONS)).encode()).hexdigest()[:12]
    root = CACHE / f"{SUITE}-{key}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tox may test two versions at the same time
        if not root.exists():
            _make(root)
    return root


def _make(root: Path) -> None:
    if shutil.which("mmdebstrap") is None:
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        subprocess.run(["apt-get", "install", "-y", "-qq", "mmdebstrap"], check=True)
    unfinished = CACHE / f"unfinished-{os.getpid()}"
    command = ["mmdebstrap", "--variant=apt", f"--include={','.join(PACKAGES)}"]
    command += [f"--aptopt={option}" for option in APT_OPTIONS]
    try:
        subprocess.run([*command, SUITE, str(unfinished)], check=True)
        unfinished.rename(root)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def command_in(root: Path, command: list[str], directory: Path) -> list[str]:
    """The command line that runs ``command`` inside ``root``."""
    wanted = [*_SHARED, str(ROOT), str(Path.home())]
    shared = "\n".join(path for path in wanted if os.path.exists(path))
    enter = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _ENTER, "sh"]
    return [*enter, str(root), str(directory), shared, *command]


def run_tests(version: str, venv: Path, arguments: list[str]) -> int:
    """Run the tests with Python ``version``, in the virtual environment ``venv``; returns pytest's exit code."""
    root = None
    python = shutil.which(f"python{version}")
    if python is None:
        if not is_possible():
            print(
                f"Left out: Python {version} is not on PATH, and a Debian root needs root and apt"
            )
            return int(os.environ.get("CI") == "true")
        root = make()
        python = f"/usr/bin/python{version}"
    environ = {**os.environ, "PATH": f"{venv}/bin:{os.environ.get('PATH', os.defpath)}"}
    # The environment has pip of its Python, and cannot be reused with another Python.
    shutil.rmtree(venv, ignore_errors=True)
    own = str(venv / "bin" / "python")
    for command in (
        [python, "-m", "venv", str(venv)],
        [own, "-m", "pip", "install", "--quiet", "--editable", f"{ROOT}[test]"],
        [own, "-m", "pytest", *arguments],
    ):
        if root is not None:
            command = command_in(root, command, ROOT)
        code = subprocess.run(command, cwd=ROOT, env=environ, check=False).returncode
        if code:
            return code
    return 0


def main(arguments: list[str]) -> int:
    """Run the tests for the command line; returns the exit code."""
    if len(arguments) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    version, venv, *rest = arguments
    return run_tests(version, Path(venv).absolute(), rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
