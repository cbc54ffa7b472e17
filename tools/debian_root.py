"""Run a command in a Debian root that has the Pythons which this machine lacks.

    python tools/debian_root.py COMMAND [ARGUMENT ...]

The first call makes the root with mmdebstrap, below .cache/debian: some 220 MB, about a minute. Later calls reuse it.
Making and entering it needs root, and Debian's or Ubuntu's apt.

The command runs in the current directory. It sees the source directory, /tmp and the home directory of the caller; the
rest is Debian's. The mounts live in a mount namespace that ends with the command, so nothing stays mounted.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["PYTHONS", "command_in", "is_possible", "make", "main"]

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "debian"
SUITE = "forky"
#: The versions of Python that the suite has.
PYTHONS = ("3.14", "3.15")
PACKAGES = ("ca-certificates", "git", *(f"python{version}-venv" for version in PYTHONS))
# A suite that is not released yet may have an index whose date has passed.
APT_OPTIONS = ('Acquire::Check-Valid-Until "false"',)

# Bound into the root as they are on this machine: devices, and the configuration of the network and of pip.
_SHARED = ("/proc", "/sys", "/dev", "/tmp", "/etc/resolv.conf", "/etc/hosts", "/etc/ssl", "/etc/pip.conf")
# $1 is the root, $2 the directory to work in, $3 the paths to bind, one a line; the rest is the command.
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
    """Whether this machine can make such a root: it has apt, and the caller is root."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def make() -> Path:
    """Return the directory of the root, which is made first when it is missing."""
    key = hashlib.sha256(repr((SUITE, PACKAGES, APT_OPTIONS)).encode()).hexdigest()[:12]
    root = CACHE / f"{SUITE}-{key}"
    if root.exists():
        return root
    if shutil.which("mmdebstrap") is None:
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        subprocess.run(["apt-get", "install", "-y", "-qq", "mmdebstrap"], check=True)
    CACHE.mkdir(parents=True, exist_ok=True)
    unfinished = CACHE / f"unfinished-{os.getpid()}"
    command = ["mmdebstrap", "--variant=apt", f"--include={','.join(PACKAGES)}"]
    command += [f"--aptopt={option}" for option in APT_OPTIONS]
    try:
        subprocess.run([*command, SUITE, str(unfinished)], check=True)
        unfinished.rename(root)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return root


def command_in(root: Path, command: list[str], directory: Path) -> list[str]:
    """The command line that runs ``command`` inside ``root``."""
    wanted = [*_SHARED, str(ROOT), str(Path.home())]
    shared = "\n".join(path for path in wanted if os.path.exists(path))
    enter = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _ENTER, "sh"]
    return [*enter, str(root), str(directory), shared, *command]


def main(command: list[str]) -> int:
    """Run ``command`` in the root and return its exit code."""
    if not command:
        print(__doc__, file=sys.stderr)
        return 2
    if not is_possible():
        print("a Debian root needs root and apt-get", file=sys.stderr)
        return 1
    return subprocess.run(command_in(make(), command, Path.cwd()), check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
