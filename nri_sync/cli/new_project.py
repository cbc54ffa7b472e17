"""``nri-sync init``: a plugin project to begin with: plugin, tests, image, manifests."""

from __future__ import annotations

import argparse
import keyword
import re
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
# Where each of them goes.
_FILES = {
    "plugin.py": "{module}.py",
    "test_plugin.py": "tests/test_{module}.py",
    "setup.cfg": "setup.cfg",
    "pyproject.toml": "pyproject.toml",
    "tox.ini": "tox.ini",
    "Dockerfile": "Dockerfile",
    "daemonset.yaml": "daemonset.yaml",
    "README.md": "README.md",
    "gitignore": ".gitignore",
}
# Good for a Python package, a Kubernetes object and an image, and for NRI anyway.
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST = 40
_TAKEN = frozenset({"conftest", "nri_sync", "setup", "tests"})


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "directory", metavar="DIRECTORY", type=Path, help="to make, or an empty one"
    )
    parser.add_argument("--name", help="of the plugin (default: that of the directory)")


def run(arguments: argparse.Namespace) -> int:
    """Write the files; there must be none yet."""
    directory: Path = arguments.directory
    name = _checked(arguments.name or directory.resolve().name.lower().replace("_", "-"))
    module = name.replace("-", "_")
    values = {"name": name, "module": module}
    try:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise CommandError(
                f"{directory}: is not empty; name a directory that is, or a new one", ExitCode.USAGE
            )
        for template, target in _FILES.items():
            text = (_TEMPLATES / f"{template}.txt").read_text(encoding="utf-8")
            path = directory / target.format(module=module)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(string.Template(text).substitute(values))
            print(printable(path))
    except OSError as error:
        raise CommandError(
            f"{error.filename or directory}: {error.strerror}", ExitCode.USAGE
        ) from error
    print(f"\nNext: cd {printable(directory)}; pip install -e '.[test]'; pytest")
    return ExitCode.OK


def _checked(name: str) -> str:
    if _NAME.fullmatch(name) is None or len(name) > _LONGEST:
        raise CommandError(
            f"{name!r} is no good name of a plugin, as it is also that of a Kubernetes object: "
            "choose lower-case letters, digits and single hyphens, with --name",
            ExitCode.USAGE,
        )
    module = name.replace("-", "_")
    if keyword.iskeyword(module) or module in _TAKEN or _is_of_python(module):
        raise CommandError(
            f"{name!r} is taken: Python has a module of this name; choose another, with --name",
            ExitCode.USAGE,
        )
    return api.check_name(name)


def _is_of_python(module: str) -> bool:
    # Python 3.9 has no list of its modules.
    library = sysconfig.get_path("stdlib")
    places = [library, f"{library}/lib-dynload"]
    return module in sys.builtin_module_names or PathFinder.find_spec(module, places) is not None
