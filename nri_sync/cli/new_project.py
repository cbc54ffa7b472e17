"""``nri-sync init``: creates a plugin project with plugin, tests, image and manifests."""

from __future__ import annotations

import argparse
import keyword
import re
import shlex
import string
import sys
import sysconfig
from importlib.machinery import PathFinder
from pathlib import Path

from nri_sync import api
from nri_sync.cli.errors import CommandError, ExitCode
from nri_sync.text import printable

__all__ = ["configure", "run"]

_TEMPLATES = Path(__file__).parent / "templates"
# The path in the project for each template.
_FILES = {
    "plugin.py": "{module}.py",
    "test_plugin.py": "tests/test_{module}.py",
    "setup.cfg": "setup.cfg",
    "pyproject.toml": "pyproject.toml",
    "tox.ini": "tox.ini",
    "Dockerfile": "Dockerfile",
    "daemonset.yaml": "daemonset.yaml",
    "config.yaml": "config.yaml",
    "pod.yaml": "pod.yaml",
    "README.md": "README.md",
    "gitignore": ".gitignore",
}
_LONGEST = 40
# The rules for a name, each with a pattern of the names that break it. A name that follows all of them is valid
# for a Python package, a Kubernetes object, an image, and NRI.
_RULES = (
    ("must not be empty", re.compile(r"")),
    (f"must be at most {_LONGEST} characters", re.compile(rf".{{{_LONGEST + 1},}}", re.DOTALL)),
    (
        "may have lower-case letters, digits and hyphens only",
        re.compile(r".*[^a-z0-9-].*", re.DOTALL),
    ),
    ("must begin with a letter", re.compile(r"[^a-z].*")),
    ("must not end with a hyphen", re.compile(r".*-")),
    ("must not have two hyphens side by side", re.compile(r".*--.*")),
)
# Modules of the project itself, and of the packages that the project installs.
_TAKEN = frozenset(
    {"conftest", "google", "grpc", "nri_sync", "pytest", "rich", "setup", "shtab", "tests", "yaml"}
)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "directory", metavar="DIRECTORY", type=Path, help="a new directory, or an empty one"
    )
    parser.add_argument("--name", help="name of the plugin (default: name of the directory)")


def run(arguments: argparse.Namespace) -> int:
    """Write the files. The directory has to be new or empty."""
    directory: Path = arguments.directory
    name = _checked(arguments.name or directory.resolve().name.lower().replace("_", "-"))
    module = name.replace("-", "_")
    values = {"name": name, "module": module}
    try:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise CommandError(
                f"{directory}: is not empty; name an empty directory or a new one", ExitCode.USAGE
            )
        for template, target in _FILES.items():
            text = (_TEMPLATES / f"{template}.txt").read_text(encoding="utf-8")
            text = _aligned(string.Template(text).substitute(values))
            path = directory / target.format(module=module)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
            print(printable(path))
    except OSError as error:
        raise CommandError(
            f"{error.filename or directory}: {error.strerror}", ExitCode.USAGE
        ) from error
    print(
        f"\nNext:\n  cd {shlex.quote(printable(directory))}\n  pip install -e '.[test]'\n  pytest\n"
        f"  nri-sync simulate {module}.py -f pod.yaml"
    )
    return ExitCode.OK


def _aligned(text: str) -> str:
    """Pads the cells of the Markdown tables in a text, so that their columns align."""
    lines = text.split("\n")
    for begin, line in enumerate(lines):
        if not line.startswith("|--"):
            continue
        first, end = begin - 1, begin
        while lines[end].startswith("|"):
            end += 1
        rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in lines[first:end]]
        del rows[1]
        widths = [max(map(len, column)) for column in zip(*rows)]
        rows.insert(1, ["-" * width for width in widths])
        lines[first:end] = [
            "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |"
            for row in rows
        ]
    return "\n".join(lines)


def _checked(name: str) -> str:
    for rule, broken in _RULES:
        if broken.fullmatch(name):
            raise CommandError(
                f"{printable(name, 100)!r} cannot be the name of a plugin, because a Python package, an image and "
                f"a Kubernetes object get the same name: it {rule}; choose another, with --name",
                ExitCode.USAGE,
            )
    module = name.replace("-", "_")
    if keyword.iskeyword(module):
        raise CommandError(
            f"{name!r} cannot be the name of a Python module, because it is a keyword of Python; choose "
            "another, with --name",
            ExitCode.USAGE,
        )
    if module in _TAKEN or _is_of_python(module):
        raise CommandError(
            f"{name!r} is taken: there is a Python module {module} already; choose another, with --name",
            ExitCode.USAGE,
        )
    return api.check_name(name)


def _is_of_python(module: str) -> bool:
    # Python 3.9 has no list of the standard library's modules.
    library = sysconfig.get_path("stdlib")
    places = [library, f"{library}/lib-dynload"]
    return module in sys.builtin_module_names or PathFinder.find_spec(module, places) is not None
