"""Finds the program or plugin that an argument names: ``FILE.py`` or ``module``, with an optional ``:NAME``."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from nri_sync import Plugin, kit
from nri_sync.api.handlers import HANDLERS, find_handlers
from nri_sync.cli.errors import CommandError, ExitCode
from nri_sync.errors import PluginError
from nri_sync.kit.chains import Chain

__all__ = ["DEFAULT_INDEX", "PLUGIN_HELP", "identity", "load_program", "plugin_name"]

#: The index of a plugin that has none; the test kit uses the same.
DEFAULT_INDEX = "10"
PLUGIN_HELP = (
    "FILE.py or a module, with a kit.Program or a plugin in it; :NAME chooses one of several"
)

_PACKAGE = Path(kit.__file__).parents[1]
# The least similarity (difflib's ratio) at which a name is probably a misspelt handler.
_ALIKE = 0.8
_HANDLER_NAMES = frozenset(handler.name for handler in HANDLERS)


def load_program(target: str) -> kit.Program:
    """Returns the program that ``target`` names, with its plugin object created.

    Without ``:NAME``, that is the kit.Program in the file or module; else the return value of its function
    ``program()``; else a program of the one plugin in it. A class or function that ``:NAME`` names is called
    without arguments. A plugin without a program gets the configuration class of its attribute ``Config``. If the
    plugin has neither that attribute nor a handler ``configure``, the dataclass ``Config`` of its module is the
    configuration class.

    Runs the code of the file or module.

    Raises:
        CommandError: the target has no plugin or more than one, or loading or creating the plugin has failed.
    """
    where, _, name = target.partition(":")
    module = _load_module(where)
    found = _named(module, name, target) if name else _only_program(module, where)
    try:
        if inspect.isroutine(found):
            found = found()
        program = (
            found if isinstance(found, kit.Program) else kit.Program(found)
        ).with_plugin_made()
    except CommandError:
        raise
    except SystemExit as error:
        raise _ended(f"{target}: making the plugin") from error
    except Exception as error:
        raise _failed(f"{target}: making the plugin failed", error) from error
    try:
        find_handlers(program.plugin)
    except PluginError as error:
        raise CommandError(f"{target}: {error}", ExitCode.PLUGIN) from error
    if program.has_no_configuration and _is_configured_by(module, program.plugin):
        program = kit.Program(program.plugin, config=module.Config)
    return program


def identity(target: str, program: kit.Program) -> tuple[str, str]:
    """The index and name of a program: its own, else those of a file ``NN-name.py``, else defaults."""
    idx, name = DEFAULT_INDEX, plugin_name(target)
    numbered = re.fullmatch(r"(\d\d)-(.+)", Path(target.partition(":")[0]).stem)
    if numbered:
        idx, name = numbered.groups()
    return program.idx or idx, program.name or name


def plugin_name(target: str) -> str:
    """The name for a plugin of ``target`` that has none: the name of the file or module."""
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
    sys.path.insert(0, "")  # as `python -m` does
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name and (where == error.name or where.startswith(error.name + ".")):
            file = Path(f"{where.replace('-', '_')}.py")
            hint = f"; did you mean {file}?" if file.exists() else ""
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
    # pickle and dataclasses look up modules in sys.modules. The directory is for imports of neighbouring files.
    sys.modules[spec.name] = module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except SystemExit as error:
        raise _ended(f"{path}: running it") from error
    except Exception as error:
        raise _failed(f"{path}: running it failed", error) from error
    return module


def _ended(what: str) -> CommandError:
    return CommandError(
        f'{what} has ended the process; put the call of kit.main() under: if __name__ == "__main__":',
        ExitCode.PLUGIN,
    )


def _failed(what: str, error: Exception) -> CommandError:
    text, place = str(error), ""
    # Name the place in the user's code, not the place in this package that it called.
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if _PACKAGE not in Path(frame.filename).parents
    ]
    if isinstance(error, SyntaxError):
        text, place = error.msg, f" (line {error.lineno})"
    elif frames and not frames[-1].filename.startswith("<"):
        place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})"
    return CommandError(f"{what}: {type(error).__name__}: {text}{place}", ExitCode.PLUGIN)


def _named(module: ModuleType, name: str, target: str) -> Any:
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            names = ", ".join(name for name, _ in _plugins(module)) or "no plugins"
            raise CommandError(
                f"{target}: {module.__name__} has no {part}; it has: {names}",
                ExitCode.PLUGIN,
            )
        found = getattr(found, part)
    return found


def _only_program(module: ModuleType, where: str) -> Any:
    programs: dict[int, tuple[str, Any]] = {}
    for name, value in vars(module).items():
        if isinstance(value, kit.Program):
            programs.setdefault(id(value), (name, value))
    found = list(programs.values())
    if not found:
        make = getattr(module, "program", None)
        if inspect.isfunction(make) and make.__module__ == module.__name__:
            return make
        found = list(_plugins(module))
    if not found:
        _refuse_misspelt(module, where)
        raise CommandError(
            f"{where}: has no plugin; a plugin is an object, or a class, with a handler such as "
            "create_container(self, pod, container)",
            ExitCode.PLUGIN,
        )
    if len(found) > 1:
        names = ", ".join(name for name, _ in found)
        raise CommandError(
            f"{where}: has more than one plugin: {names}; choose one, as in {where}:{found[0][0]}",
            ExitCode.PLUGIN,
        )
    return found[0][1]


def _refuse_misspelt(module: ModuleType, where: str) -> None:
    """Raise CommandError if a method of the module's classes is probably a misspelt handler."""
    for kind in vars(module).values():
        if not isinstance(kind, type) or kind.__module__ != module.__name__:
            continue
        for name in vars(kind):
            close = difflib.get_close_matches(name, _HANDLER_NAMES, 1, _ALIKE)
            if close:
                raise CommandError(
                    f"{where}: has no plugin: {kind.__qualname__}.{name} is no handler; did you mean {close[0]}?",
                    ExitCode.PLUGIN,
                )


def _is_configured_by(module: ModuleType, plugin: object) -> bool:
    """Whether the module's dataclass ``Config`` is certainly the configuration of its plugin."""
    cls = getattr(module, "Config", None)
    return (
        isinstance(cls, type)
        and dataclasses.is_dataclass(cls)
        and not hasattr(plugin, "configure")
        and type(plugin).__module__ == module.__name__
    )


def _plugins(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """The plugins in a module: chains, and the module's own classes and objects that have handlers.

    An object hides its class. A class hides its base classes. A chain hides its plugins.
    """
    classes: dict[str, type] = {}
    objects: dict[str, Any] = {}
    for name, value in vars(module).items():
        if name.startswith("_") or isinstance(value, ModuleType):
            continue
        if isinstance(value, type):
            if value.__module__ == module.__name__ and _has_handlers(value):
                classes[name] = value
        elif isinstance(value, Chain) or (
            type(value).__module__ == module.__name__ and _has_handlers(type(value))
        ):
            objects[name] = value
    chained = [each for value in objects.values() for each in _chained(value)]
    made = {type(value) for value in (*objects.values(), *chained)}
    objects = {n: v for n, v in objects.items() if not any(v is each for each in chained)}
    bases = {base for value in classes.values() for base in value.__mro__[1:]}
    yield from objects.items()
    for name, value in classes.items():
        if value not in made and value not in bases and not inspect.isabstract(value):
            yield name, value


def _chained(value: object) -> Iterator[object]:
    """The plugins of a chain, and of the chains inside it."""
    for plugin in value.plugins if isinstance(value, Chain) else ():
        yield plugin
        yield from _chained(plugin)


def _has_handlers(kind: type) -> bool:
    return any(
        callable(getattr(kind, name, None))
        and getattr(kind, name, None) is not getattr(Plugin, name, None)
        for name in _HANDLER_NAMES
    )
