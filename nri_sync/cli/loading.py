"""Finding the plugin that an argument names: ``FILE.py``, ``FILE.py:Class``, ``module`` or ``module:Class``."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from nri_sync import Plugin
from nri_sync.api.handlers import HANDLERS, find_handlers
from nri_sync.cli.errors import CommandError, ExitCode
from nri_sync.errors import PluginError

__all__ = ["PLUGIN_HELP", "load_plugin", "plugin_name"]

PLUGIN_HELP = "a file, FILE.py, or a module; with :NAME after it when it has more than one plugin"

_HANDLER_NAMES = frozenset(handler.name for handler in HANDLERS)


def load_plugin(target: str) -> Any:
    """The plugin object that ``target`` names; a class or function without arguments is called.

    Runs the code of the file or module.

    Raises:
        CommandError: there is none, more than one, or it cannot be loaded or made.
    """
    where, _, name = target.partition(":")
    module = _load_module(where)
    found = _named(module, name, target) if name else _only_plugin(module, where)
    try:
        plugin = found() if isinstance(found, type) or inspect.isroutine(found) else found
    except CommandError:
        raise
    except Exception as error:
        raise _failed(f"{target}: making the plugin failed", error) from error
    try:
        find_handlers(plugin)
    except PluginError as error:
        raise CommandError(f"{target}: {error}", ExitCode.PLUGIN) from error
    return plugin


def plugin_name(target: str) -> str:
    """A name for the plugin of ``target``, where it has none: that of the file or module."""
    where = target.partition(":")[0]
    stem = Path(where).stem if _is_file(where) else where.rpartition(".")[2]
    if stem in ("plugin", "__main__", "main") and _is_file(where):
        stem = Path(where).resolve().parent.name
    return stem.strip("_").replace("_", "-") or "plugin"


def _is_file(where: str) -> bool:
    return where.endswith(".py") or "/" in where


def _load_module(where: str) -> ModuleType:
    if _is_file(where):
        return _load_file(Path(where))
    sys.path.insert(0, "")  # as `python -m` has it
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name and (where == error.name or where.startswith(error.name + ".")):
            hint = f"; is {where}.py meant?" if Path(f"{where}.py").exists() else ""
            raise CommandError(
                f"{where}: there is no module of this name on the Python path{hint}",
                ExitCode.PLUGIN,
            ) from error
        raise _failed(f"{where}: importing it failed", error) from error
    except Exception as error:
        raise _failed(f"{where}: importing it failed", error) from error
    finally:
        sys.path.remove("")


def _load_file(path: Path) -> ModuleType:
    if path.is_dir():
        raise CommandError(
            f"{path}: is a directory; name the file of the plugin in it", ExitCode.PLUGIN
        )
    spec = importlib.util.spec_from_file_location(path.stem.replace("-", "_"), path)
    if not path.exists() or spec is None or spec.loader is None:
        raise CommandError(f"{path}: there is no such Python file", ExitCode.PLUGIN)
    module = importlib.util.module_from_spec(spec)
    # Where pickling, dataclasses and the like look for it; and what lies beside it can be imported.
    sys.modules[spec.name] = module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise _failed(f"{path}: running it failed", error) from error
    return module


def _failed(what: str, error: Exception) -> CommandError:
    place = ""
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError):
        place = f" (line {error.lineno})"
    elif frames:
        place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})"
    return CommandError(f"{what}: {type(error).__name__}: {error}{place}", ExitCode.PLUGIN)


def _named(module: ModuleType, name: str, target: str) -> Any:
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            names = ", ".join(name for name, _ in _plugins(module)) or "none that is a plugin"
            raise CommandError(
                f"{target}: there is no {part} in {module.__name__}; it has: {names}",
                ExitCode.PLUGIN,
            )
        found = getattr(found, part)
    return found


def _only_plugin(module: ModuleType, where: str) -> Any:
    found = list(_plugins(module))
    if not found:
        raise CommandError(
            f"{where}: no plugin in it; a plugin is an object, or a class, with a handler such as "
            "create_container(self, pod, container)",
            ExitCode.PLUGIN,
        )
    if len(found) > 1:
        names = ", ".join(name for name, _ in found)
        raise CommandError(
            f"{where}: more than one plugin in it: {names}; choose one, as in {where}:{found[0][0]}",
            ExitCode.PLUGIN,
        )
    return found[0][1]


def _plugins(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """What in a module is a plugin: its own classes and objects that have handlers.

    An object counts instead of its class, and a class instead of those that it is derived from.
    """
    classes: dict[str, type] = {}
    objects: dict[str, Any] = {}
    for name, value in vars(module).items():
        if name.startswith("_") or isinstance(value, ModuleType):
            continue
        if isinstance(value, type):
            if value.__module__ == module.__name__ and _has_handlers(value):
                classes[name] = value
        elif type(value).__module__ == module.__name__ and _has_handlers(type(value)):
            objects[name] = value
    made = {type(value) for value in objects.values()}
    bases = {base for value in classes.values() for base in value.__mro__[1:]}
    yield from objects.items()
    for name, value in classes.items():
        if value not in made and value not in bases and not inspect.isabstract(value):
            yield name, value


def _has_handlers(kind: type) -> bool:
    return any(
        callable(getattr(kind, name, None))
        and getattr(kind, name, None) is not getattr(Plugin, name, None)
        for name in _HANDLER_NAMES
    )
