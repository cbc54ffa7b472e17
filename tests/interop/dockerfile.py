"""A small Dockerfile builder that proves a Dockerfile without containers: plain commands in plain directories.

Each stage is a directory. It stands for the root of the stage's file system, for files that are copied there or
made by commands. Paths in commands are rewritten to that directory. The base image is the Python that runs this
module.
"""

from __future__ import annotations

import glob
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Stage", "build", "instructions"]

# The beginning of an absolute path, but not the rest of a longer path.
_START = r"(?<![\w.}/])"


@dataclass
class Stage:
    """A stage of the build; the last one is the image."""

    root: Path
    base: str
    workdir: str = "/"
    variables: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    user: str = "root"
    entrypoint: list[str] = field(default_factory=list)

    def place(self, path: str) -> Path:
        """The place on this machine of an absolute path, or of one below the working directory."""
        return self.root / os.path.join(self.workdir, path).lstrip("/")

    def localized(self, text: str) -> str:
        """A text in which the paths of this stage are replaced by their places on this machine."""
        tops = sorted(path.name for path in self.root.iterdir())
        pattern = f"{_START}/({'|'.join(map(re.escape, tops))})(?![\\w-])"
        return re.sub(pattern, lambda found: f"{self.root}{found[0]}", text) if tops else text


def instructions(text: str) -> list[tuple[str, str]]:
    """The keyword and the rest of each instruction."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found = [line.partition(" ") for line in joined.splitlines()]
    return [(keyword, rest.strip()) for keyword, _, rest in found]


def build(dockerfile: Path, context: Path, directory: Path, path: str, **arguments: str) -> Stage:
    """Build all stages in ``directory``; commands find ``python`` and ``pip`` on ``path``.

    Raises ValueError for an instruction that a builder would reject, and CalledProcessError for a failed command.
    """
    stages: dict[str, Stage] = {}
    globals_: dict[str, str] = {}
    stage: Stage | None = None
    for keyword, rest in instructions(dockerfile.read_text()):
        known = globals_ if stage is None or keyword == "FROM" else stage.variables
        if keyword == "ARG":
            name, _, default = rest.partition("=")
            known[name] = arguments.get(name, default or globals_.get(name, ""))
            continue
        if keyword != "RUN":
            rest = _substitute(rest, {**known, **(stage.environment if stage else {})})
        if keyword == "FROM":
            base, _, name = rest.partition(" AS ")
            root = directory / (name or "image")
            root.mkdir()
            stage = stages[name] = Stage(root, base)
            continue
        if stage is None:
            raise ValueError(f"{keyword} before FROM")
        if keyword == "COPY":
            _copy(stage, rest, context, stages)
        elif keyword == "RUN":
            _run(stage, rest, path)
        else:
            _set(stage, keyword, rest)
    assert stage is not None
    return stage


def _set(stage: Stage, keyword: str, rest: str) -> None:
    if keyword == "WORKDIR":
        stage.workdir = rest
        stage.place(rest).mkdir(parents=True)
    elif keyword == "ENV":
        for word in shlex.split(rest):
            name, _, value = word.partition("=")
            stage.environment[name] = value
    elif keyword == "USER":
        stage.user = rest
    elif keyword == "ENTRYPOINT":
        stage.entrypoint = json.loads(rest)
    else:
        raise ValueError(f"{keyword} is not known here")


def _substitute(text: str, variables: Mapping[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if name == "PATH":
            return found[0]
        if not variables.get(name):
            raise ValueError(f"{text!r}: {name} is not set")
        return variables[name]

    return re.sub(r"\$\{(\w+)\}|\$(\w+)", value, text)


def _copy(stage: Stage, rest: str, context: Path, stages: Mapping[str, Stage]) -> None:
    words = rest.split()
    source_root = context
    if words[0].startswith("--from="):
        source_root = stages[words.pop(0)[len("--from=") :]].root
    *sources, target = words
    for source in sources:
        found = [Path(name) for name in glob.glob(str(source_root / source.lstrip("/")))]
        if not found:
            raise ValueError(f"COPY {rest}: there is no {source}")
        for path in found:
            if path.is_dir():
                # COPY copies the contents of a directory, not the directory itself.
                shutil.copytree(
                    path, stage.place(target), symlinks=True, dirs_exist_ok=True,
                    ignore=shutil.ignore_patterns("__pycache__") if source_root == context else None,
                )  # fmt: skip
            else:
                into = stage.place(target)
                if target.endswith(("/", ".")):
                    into.mkdir(parents=True, exist_ok=True)
                    into = into / path.name
                shutil.copy(path, into)


def _run(stage: Stage, command: str, path: str) -> None:
    environment = {
        **os.environ, **stage.variables, **stage.environment, "PATH": path,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }  # fmt: skip
    environment.pop("PYTHONPATH", None)
    # Paths that the command itself creates are in the stage, too.
    for top in set(re.findall(_START + r"/(plugin|wheels)\b", command)):
        (stage.root / top).mkdir(exist_ok=True)
    subprocess.run(
        ["sh", "-c", stage.localized(command)], cwd=stage.place(""), env=environment,
        check=True, capture_output=True, text=True,
    )  # fmt: skip
