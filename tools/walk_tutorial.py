"""Follows the tutorial like a newcomer, and writes the output of its commands; ``--check`` only compares.

The pages in docs/tutorial are one story, in one directory. A block with ``file=NAME`` after its language is the
content of that file. In a ``console walk`` block, each ``$`` line is a command for a shell, and its output
follows. An output with ``...`` is written by hand, and only has to match. Blocks without a mark need a node or a
network.
"""

from __future__ import annotations

import argparse
import doctest
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.record_cli import lasting

__all__ = ["PAGES", "Walk", "main"]

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "docs" / "tutorial" / f"{name}.md" for name in ("plugin", "test", "simulate", "deploy")
]
BLOCK = re.compile(r"^```(?P<info>[^\n`]+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
# pytest prints this duration without a leading blank.
PYTEST_TIME = re.compile(r" in \d+\.\d+s\b")
WITHIN = 60.0


class Walk:
    """The newcomer's directory, and the differences found between the pages and the outputs."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.differences: list[str] = []
        programs = directory / ".bin"
        programs.mkdir()
        for name, start in {"nri-sync": "-m nri_sync", "python": ""}.items():
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec {sys.executable} {start} "$@"\n')
            program.chmod(0o755)
        self._environment = {
            **os.environ,
            "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "COLUMNS": "100",
        }
        # Variables of a test run that started this script would change the inner test run.
        for name in ("PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST", "PYTEST_XDIST_WORKER"):
            self._environment.pop(name, None)

    def page(self, text: str) -> str:
        """Follow a page; returns its text with the current outputs."""
        return BLOCK.sub(self._block, text)

    def _block(self, block: re.Match[str]) -> str:
        words = block["info"].split()
        for word in words:
            if word.startswith("file="):
                (self._directory / word[len("file=") :]).write_text(block["body"])
        if words != ["console", "walk"]:
            return block[0]
        steps = re.split(r"^\$ ", block["body"], flags=re.MULTILINE)[1:]
        return "```console walk\n" + "".join(map(self._step, steps)) + "```"

    def _step(self, step: str) -> str:
        command, _, written = step.partition("\n")
        printed = self._run(command)
        expected, actual = (
            "".join(f"{line}\n" for line in lasting(PYTEST_TIME.sub("", text)))
            for text in (written, printed)
        )
        if not doctest.OutputChecker().check_output(expected, actual, doctest.ELLIPSIS):
            self.differences.append(f"$ {command}\n{printed}instead of\n{written}")
        return f"$ {command}\n{written if '...' in written else printed}"

    def _run(self, command: str) -> str:
        if command.startswith("cd "):
            self._directory /= command[len("cd ") :]
            return ""
        done = subprocess.run(
            command, shell=True, cwd=self._directory, env=self._environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=WITHIN, check=False,
        )  # fmt: skip
        output = done.stdout.replace(f"{ROOT}/", "")
        lines = [line.rstrip() for line in output.splitlines()]
        if done.returncode:
            lines.append(f"exit code {done.returncode}")
        return "".join(f"{line}\n" for line in lines)


def main(argv: list[str] | None = None) -> int:
    """Write the pages; with ``--check``, return 1 if they are not current."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="nri") as directory:
        walk = Walk(Path(directory))
        for page in PAGES:
            text = walk.page(page.read_text(encoding="utf-8"))
            if not arguments.check:
                page.write_text(text, encoding="utf-8")
    if arguments.check:
        print("\n".join(walk.differences))
    return 1 if arguments.check and walk.differences else 0


if __name__ == "__main__":
    sys.exit(main())
