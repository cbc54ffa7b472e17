"""Run tox environments, two at a time, and add up what their tests counted.

    python tools/run_tox.py [TOX ARGUMENT ...]     with the python that has tox installed

tox finds a Python by its name on PATH (``python3.9``). Where pyenv keeps the interpreters, PATH leads
to shims, which refuse to run a version that is not selected; so pyenv's own directories are appended
to PATH. A Python that is missing all the same is skipped, unless CI=true: there it is a failure.

In parallel, tox shows only the output of what failed. Test environments leave a JUnit file; the last
line printed adds these up: ``N passed, N failed, N skipped``. An environment that failed without
a failed test (a linter, or tests killed by their timeout) counts as one failure.
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

__all__ = ["count", "interpreters", "main"]

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".tox"


def interpreters(root: Path) -> list[str]:
    """The directories of the interpreters below pyenv's ``root``."""
    return [str(path) for path in sorted(root.glob("versions/3.*/bin"))]


def count(report: Path) -> Counter[str]:
    """How many tests in a JUnit file passed, failed and were skipped."""
    totals: Counter[str] = Counter()
    for suite in ET.parse(report).iter("testsuite"):
        failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped = int(suite.get("skipped", 0))
        totals["failed"] += failed
        totals["skipped"] += skipped
        totals["passed"] += max(0, int(suite.get("tests", 0)) - failed - skipped)
    return totals


def main(args: list[str]) -> int:
    """Run tox with ``args``, print the totals, and return tox's exit code."""
    # Whatever starts this may ignore it, as shells do for background jobs, and tests would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    environ = dict(os.environ)
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
    environments = json.loads(result.read_text())["testenvs"] if result.exists() else {}
    for name, outcome in environments.items():
        report = WORK / name / "junit.xml"
        counted = count(report) if report.exists() else Counter()
        if not outcome.get("result", {}).get("success", True) and not counted["failed"]:
            counted["failed"] = 1
        totals += counted
    if code and not totals["failed"]:
        totals["failed"] = 1
    print(f"{totals['passed']} passed, {totals['failed']} failed, {totals['skipped']} skipped")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
