"""The definition of a plugin's program: one object for every way to run the plugin.

::

    PROGRAM = kit.Program(MyPlugin, config=Config, name="mine", idx="10")

    if __name__ == "__main__":
        kit.main(PROGRAM)
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import functools
import inspect
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Callable

import nri_sync
from nri_sync.errors import ConfigError, NRIError, PluginError
from nri_sync.kit.chains import Chain
from nri_sync.kit.config.live import LiveConfig
from nri_sync.kit.health.health import Health
from nri_sync.plugin.options import StubOptions, check_options

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from nri_sync.plugin.interceptors import AnyInterceptor

__all__ = ["Assembly", "Program", "Unusable", "check_hooks", "config_error", "configuration_of"]

#: The options of a program beside those of a stub.
_OPTIONS = ("backoff", "config", "description", "health", "idx", "name")
_HOOKS = ("on_config", "on_connected", "on_disconnected", "on_stopping", "on_stop")
# Of difflib: how much alike names are of which one is probably the other misspelt.
_ALIKE = 0.8


class Unusable(NRIError, ValueError):
    """An option cannot be used, as the plugin or the system refuses it."""


class Program:
    """A plugin with its configuration, its name and its interceptors: the same for every way to run it.

    ``kit.main``, the commands ``nri-sync run``, ``simulate`` and ``replay``, and the test kit's ``nri_plugin``
    take a program, and give the plugin the same configuration, hooks and interceptors. To make a program makes
    neither the plugin nor a stub, and connects to nothing, so that a module can have one as a constant.

    A program whose interceptors are objects, such as a :class:`nri_sync.kit.UpdateQueue`, can run once, as each
    stub needs interceptors of its own. A module that shares an object between the plugin and the interceptors has
    a function ``program()`` that returns a new program; the commands call that.
    """

    def __init__(
        self,
        plugin: Any,
        *,
        config: Callable[..., object] | None = None,
        name: str | None = None,
        idx: str | int | None = None,
        description: str | None = None,
        backoff: nri_sync.Backoff | None = None,
        health: Health | None = None,
        **stub_options: Unpack[StubOptions],
    ) -> None:
        """
        Args:
            plugin: an object with handlers, also a :func:`nri_sync.kit.chain`; or a class or function that makes
                it, called without arguments.
            config: a dataclass, or another function that :func:`nri_sync.kit.load` takes. Default is the plugin's
                attribute ``Config``.
            name, idx: the plugin's, unless options or the environment give others.
            description: for ``--help``; default is the first line of the plugin's docstring.
            backoff: how long to wait between attempts to connect.
            health: one of your own, with checks for example.
            stub_options: further keyword arguments of :class:`nri_sync.Stub`, such as ``interceptors``. At the end
                the stub is closed, and its interceptors with it.

        Raises TypeError for an option that does not exist.
        """
        check_options("Program", stub_options, _OPTIONS)
        self.plugin = plugin
        self.name = name
        self.idx = f"{idx:02d}" if isinstance(idx, int) else idx
        self.description = description or _first_line(plugin)
        self.backoff = backoff
        self.health = health
        self.stub_options = stub_options
        self._config = config

    @classmethod
    def of(cls, plugin: Any) -> Program:
        """``plugin`` itself where that is a program, or else a program of the plugin."""
        return plugin if isinstance(plugin, Program) else cls(plugin)

    @property
    def config(self) -> Callable[..., object] | None:
        """What makes the plugin's configuration; None for a plugin that has none."""
        return self._config or configuration_of(self.plugin)

    @property
    def has_no_configuration(self) -> bool:
        """Whether the plugin certainly takes none. A function may make one that has an attribute ``Config``."""
        return self.config is None and (
            isinstance(self.plugin, type) or not _makes_plugins(self.plugin)
        )

    def watched(self, health: Health) -> Program:
        """The same program with a Health of that."""
        program = copy.copy(self)
        program.health = health
        return program

    def made(self) -> Program:
        """The same program with the plugin as an object: this one, unless the plugin is to be made."""
        if not _makes_plugins(self.plugin):
            return self
        program = copy.copy(self)
        program.plugin = self.plugin()
        return program

    def assemble(
        self,
        *,
        config: Any = "",
        config_path: str | os.PathLike[str] | None = None,
        without: str | None = None,
    ) -> Assembly:
        """Make the plugin, and read its configuration, for one stub.

        Args:
            config: a configuration for the plugin, in place of one from a file or the runtime. A text only has to
                be usable: the runtime sends it.
            config_path: the configuration file; default is what the runtime sends.
            without: what to call the configuration in messages when there is none.

        Raises:
            ConfigError: the file says nothing usable, or the plugin refuses it.
            Unusable: there is a configuration, and the plugin takes none.
            PluginError: the plugin has a method that looks like a hook, and is misspelt.
        """
        return Assembly(self.made(), config, config_path, without)


class Assembly:
    """A program put together for one stub: the plugin, its configuration, and its hooks."""

    def __init__(
        self,
        program: Program,
        config: Any,
        config_path: str | os.PathLike[str] | None,
        without: str | None,
    ) -> None:
        self._program = program
        self.plugin = program.plugin
        check_hooks(self.plugin)
        #: None for a plugin without a configuration, and for one that has been given it.
        self.config: LiveConfig | None = None
        cls = program.config
        if config_path is not None and cls is None:
            raise Unusable(
                _without_configuration(f"--config {os.fspath(config_path)}", self.plugin)
            )
        if not isinstance(config, str):
            self._apply(config)
        elif cls is not None:
            options = {} if without is None else {"without": without}
            self.config = LiveConfig(self.plugin, cls, config_path, **options)
            if config_path is not None:
                self.config.read_file()
        elif config and hasattr(self.plugin, "on_config"):
            raise Unusable(_without_configuration("config=", self.plugin))

    def _apply(self, config: Any) -> None:
        """Give the plugin a configuration that is made already."""
        try:
            self.call("on_config", config)
        except ValueError as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError("config=", (str(error) or repr(error),)) from error
        self.plugin.config = config

    def stub(self, interceptors: Sequence[AnyInterceptor] = (), **options: Any) -> nri_sync.Stub:
        """Make the stub. ``interceptors`` come before those of the program; other options replace those of the
        program, but ``on_close``: both are called.

        Raises:
            PluginError, IdentityError: as of :class:`nri_sync.Stub`.
        """
        health = self._program.health
        given = {**self._program.stub_options, **options}
        given["interceptors"] = [
            *interceptors,
            *([] if health is None else [health]),
            *self._program.stub_options.get("interceptors", ()),
        ]
        closed = [each for each in (options.get("on_close"), _on_close(self._program)) if each]
        if closed:
            given["on_close"] = lambda stub: [each(stub) for each in closed]
        return nri_sync.Stub(self.plugin if self.config is None else self.config.plugin(), **given)

    def give(self, stub: nri_sync.Stub) -> None:
        """Let the plugin find its stub as ``plugin.stub``."""
        with contextlib.suppress(AttributeError):  # one that has no room for it needs none
            self.plugin.stub = stub

    def call(self, hook: str, *arguments: object) -> None:
        """Call one of the plugin's hooks, if the plugin has it. Raises what the hook raises."""
        method = getattr(self.plugin, hook, None)
        if callable(method):
            method(*arguments)


def configuration_of(plugin: Any) -> Callable[..., object] | None:
    """What makes the configuration of a plugin, by its attribute ``Config``; in a chain, the first one."""
    for one in plugin.plugins if isinstance(plugin, Chain) else (plugin,):
        cls = configuration_of(one) if isinstance(one, Chain) else getattr(one, "Config", None)
        if callable(cls):
            found: Callable[..., object] = cls
            return found
    return None


def config_error(error: BaseException | None) -> ConfigError | None:
    """What made Configure fail, where that was the configuration."""
    while error is not None and not isinstance(error, ConfigError):
        error = error.__cause__ or error.__context__
    return error


def check_hooks(plugin: object) -> None:
    """Refuse a method that would silently never be called, as the stub does with handlers."""
    for name in dir(plugin):
        if name.startswith("on_") and name not in _HOOKS:
            close = difflib.get_close_matches(name, _HOOKS, 1, _ALIKE)
            if close:
                raise PluginError(
                    f"{type(plugin).__qualname__}.{name} is never called, is {close[0]} meant? "
                    "(a method that is meant to be something else needs another name)"
                )


def _on_close(program: Program) -> Callable[[nri_sync.Stub], object] | None:
    return program.stub_options.get("on_close")


def _without_configuration(given: str, plugin: object) -> str:
    return (
        f"{given}: {type(plugin).__qualname__} has no configuration; say which class it is, by "
        "kit.Program(..., config=Config)"
    )


def _makes_plugins(plugin: Any) -> bool:
    return (
        isinstance(plugin, type)
        or inspect.isroutine(plugin)
        or isinstance(plugin, functools.partial)
    )


def _first_line(plugin: Any) -> str | None:
    """Of its own docstring, not that of a base class."""
    text = getattr(plugin.func if isinstance(plugin, functools.partial) else plugin, "__doc__", "")
    return text.strip().partition("\n")[0] if text else None
