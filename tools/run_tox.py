"""Runs tox environments, two at a time, and adds up the results of their tests.

    python tools/run_tox.py [TOX ARGUMENT ...]             with the Python that has tox
    python tools/run_tox.py --quick [TOX ARGUMENT ...]     the tests on this Python, style, types and documentation
    python tools/run_tox.py --rest [TOX ARGUMENT ...]      all other environments

``-e`` among the arguments selects environments instead.

tox finds a Python by its name on PATH (``python3.9``). If pyenv manages the interpreters, PATH has pyenv's shims,
which reject versions that are not selected. Therefore the script appends pyenv's own directories to PATH. If a
Python is still missing, its environment is skipped; with CI=true it is a failure.

In parallel, tox shows only the output of failed environments. Test environments write a JUnit file, and the last
line of the output adds these up: ``N passed, N failed, N skipped``. An environment that failed without a failed
test (a linter, or tests that a timeout has killed) counts as one failure.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

__all__ = ["count", "environments", "interpreters", "main", "split"]

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".tox"
# Run by --quick, together with the tests on one Python.
_QUICK = ("lint", "types", "docs")


def interpreters(root: Path) -> list[str]:
    """The directories of the interpreters below pyenv's ``root``."""
    return [str(path) for path in sorted(root.glob("versions/3.*/bin"))]


def count(report: Path) -> Counter[str]:
    """The numbers of passed, failed and skipped tests in a JUnit file."""
    totals: Counter[str] = Counter()
    for suite in ET.parse(report).iter("testsuite"):
        failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped = int(suite.get("skipped", 0))
        totals["failed"] += failed
        totals["skipped"] += skipped
        totals["passed"] += max(0, int(suite.get("tests", 0)) - failed - skipped)
    return totals


def environments() -> list[str]:
    """The environments of tox.ini's env_list."""
    command = [sys.executable, "-m", "tox", "config", "--core", "-e", "lint", "-k", "env_list"]
    config = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    return config.partition("env_list =")[2].split()


def split(names: list[str]) -> tuple[list[str], list[str]]:
    """The environments of --quick, for the Python that runs this script, and the others."""
    at_hand = "py{}{}".format(*sys.version_info)
    quick = [at_hand, *(name for name in names if name in _QUICK)]
    return quick, [name for name in names if name not in quick]


def main(args: list[str]) -> int:
    """Run tox with ``args``, and print the totals; returns tox's exit code."""
    # A parent may ignore SIGINT, as shells do for background jobs. The tests would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    environ = dict(os.environ)
    left_out: list[str] = []
    if args[:1] in (["--quick"], ["--rest"]):
        mode, *args = args
        if not any(argument.startswith("-e") for argument in args):
            quick, rest = split(environments())
            chosen, left_out = (quick, rest) if mode == "--quick" else (rest, quick)
            args = ["-e", ",".join(chosen), *args]
        # A test waits for half of its time: two workers keep a CPU busy. --rest tests two environments at once.
        workers = (os.cpu_count() or 1) * (2 if mode == "--quick" else 1)
        environ.setdefault("NRI_SYNC_TEST_WORKERS", str(workers))
    pyenv = Path(environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    environ["PATH"] = os.pathsep.join([environ.get("PATH", os.defpath), *interpreters(pyenv)])
    WORK.mkdir(exist_ok=True)
    result = WORK / "result.json"
    for old in [result, *WORK.glob("*/junit.xml")]:
        old.unlink(missing_ok=True)

    command = [sys.executable, "-m", "tox", "run-parallel", "--parallel", "2"]
    command += ["--parallel-no-spinner", "--result-json", str(result)]
    command += ["--skip-missing-interpreters", "false" if environ.get("CI") == "true" else "true"]
    code = subprocess.run([*command, *args], cwd=ROOT, env=environ, check=False).returncode

    totals: Counter[str] = Counter()
    results = json.loads(result.read_text())["testenvs"] if result.exists() else {}
    for name, outcome in results.items():
        report = WORK / name / "junit.xml"
        counted = count(report) if report.exists() else Counter()
        if not outcome.get("result", {}).get("success", True) and not counted["failed"]:
            counted["failed"] = 1
        totals += counted
    if code and not totals["failed"]:
        totals["failed"] = 1
    if left_out:
        print(f"Left out: {', '.join(left_out)}. `make ci` runs everything.")
    print(f"{totals['passed']} passed, {totals['failed']} failed, {totals['skipped']} skipped")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
