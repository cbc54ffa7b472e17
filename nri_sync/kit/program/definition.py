"""The definition of a plugin's program: one object for every way to run the plugin.

::

    PROGRAM = kit.Program(MyPlugin, config=Config, name="mine", idx="10")

    if __name__ == "__main__":
        kit.main(PROGRAM)
"""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import types
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Callable

import nri_sync
from nri_sync.errors import ConfigError, NRIError, PluginError
from nri_sync.kit.chains import Chain
from nri_sync.kit.health.health import Health
from nri_sync.plugin.options import StubOptions, check_options

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from nri_sync.kit.config.live import LiveConfig
    from nri_sync.plugin.interceptors import AnyInterceptor

__all__ = ["Assembly", "Program", "Unusable", "check_hooks", "config_error", "configuration_of"]

#: The options of a program in addition to those of a stub.
_OPTIONS = ("backoff", "config", "description", "health", "idx", "name")
_HOOKS = ("on_config", "on_connected", "on_disconnected", "on_stopping", "on_stop")
# The least similarity (by difflib) at which a name is probably a misspelt known name.
_ALIKE = 0.8
# Callables that make a plugin. Any other object is a plugin.
_MAKERS = (
    type, types.FunctionType, types.BuiltinFunctionType, types.MethodType, functools.partial,
)  # fmt: skip


class Unusable(NRIError, ValueError):
    """The plugin or the system refuses an option."""


class Program:
    """A plugin with its configuration, its name and its interceptors: the same for every way to run it.

    ``kit.main``, the commands ``nri-sync run``, ``simulate`` and ``replay``, and the test kit's ``nri_plugin``
    take a program, and give the plugin the same configuration, hooks and interceptors. A Program creates the
    plugin and the stub only when it runs, and connects only then. So a module can have a Program as a constant.

    If the interceptors are objects, such as a :class:`nri_sync.kit.UpdateQueue`, the program can run once, because
    each stub needs its own interceptors. If the plugin and the interceptors share an object, the module defines a
    function ``program()`` that returns a new program; the commands call that function.
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
            plugin: an object with handlers, such as a :func:`nri_sync.kit.chain`; or a class or function without
                parameters that makes the object.
            config: a dataclass, or another type or function that :func:`nri_sync.kit.load` takes. Default: the
                plugin's attribute ``Config``.
            name, idx: the plugin's name and index. Options and the environment override them.
            description: the text for ``--help``. Default: the first line of the plugin's docstring.
            backoff: the delays between attempts to connect.
            health: a Health of your own, for example with checks.
            stub_options: further keyword arguments of :class:`nri_sync.Stub`, such as ``interceptors``. At its end
                the program closes the stub, and the stub closes its interceptors.

        Raises TypeError for an unknown argument.
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
        """Return ``plugin`` if it is a program, else a program of the plugin."""
        return plugin if isinstance(plugin, Program) else cls(plugin)

    @property
    def config(self) -> Callable[..., object] | None:
        """The function that makes the plugin's configuration; None for a plugin without one."""
        return self._config or configuration_of(self.plugin)

    @property
    def has_no_configuration(self) -> bool:
        """Whether the plugin surely takes no configuration. A function may make a plugin that has a ``Config``."""
        return self.config is None and (
            isinstance(self.plugin, type) or not _makes_plugins(self.plugin)
        )

    def with_health(self, health: Health) -> Program:
        """Return a copy of the program with that Health."""
        program = copy.copy(self)
        program.health = health
        return program

    def with_plugin_made(self) -> Program:
        """Return a program whose plugin is an object: a copy if the plugin has to be made, else this one."""
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
            config: a configuration for the plugin, which replaces the one from a file or the runtime. For a text
                only the type is checked: the runtime sends it.
            config_path: the configuration file. Default: the text from the runtime.
            without: the name of the configuration in messages when there is none.

        Raises:
            ConfigError: the content of the file is wrong, or the plugin refuses it.
            Unusable: there is a configuration, but the plugin takes none.
            PluginError: a method of the plugin has the misspelt name of a hook.
        """
        return Assembly(self.with_plugin_made(), config, config_path, without)


class Assembly:
    """The parts of a program for one stub: the plugin, its configuration, and its hooks."""

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
        #: None for a plugin without a configuration, and for one that has already received it.
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
            # The import is local: programs without a configuration do not need it.
            from nri_sync.kit.config.live import LiveConfig

            self.config = LiveConfig(self.plugin, cls, config_path, **options)
            if config_path is not None:
                self.config.read_file()
        elif config and hasattr(self.plugin, "on_config"):
            raise Unusable(_without_configuration("config=", self.plugin))

    def _apply(self, config: Any) -> None:
        """Give the plugin a configuration object."""
        try:
            self.call("on_config", config)
        except ValueError as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError("config=", (str(error) or repr(error),)) from error
        self.plugin.config = config

    def stub(self, interceptors: Sequence[AnyInterceptor] = (), **options: Any) -> nri_sync.Stub:
        """Make the stub. ``interceptors`` come before those of the program. Other options replace those of the
        program, except ``on_close``: both functions are called.

        Raises:
            PluginError, IdentityError: as :class:`nri_sync.Stub`.
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
        """Set ``plugin.stub``."""
        with contextlib.suppress(AttributeError):  # a plugin with __slots__ and no slot for it
            self.plugin.stub = stub

    def call(self, hook: str, *arguments: object) -> None:
        """Call a hook of the plugin, if the plugin has it. Raises the hook's exceptions."""
        method = getattr(self.plugin, hook, None)
        if callable(method):
            method(*arguments)


def configuration_of(plugin: Any) -> Callable[..., object] | None:
    """Return the plugin's attribute ``Config``; of a chain, that of the first plugin that has one; else None."""
    for one in plugin.plugins if isinstance(plugin, Chain) else (plugin,):
        cls = configuration_of(one) if isinstance(one, Chain) else getattr(one, "Config", None)
        if callable(cls):
            found: Callable[..., object] = cls
            return found
    return None


def config_error(error: BaseException | None) -> ConfigError | None:
    """Return the ConfigError in the chain of an error's causes; None if there is none."""
    while error is not None and not isinstance(error, ConfigError):
        error = error.__cause__ or error.__context__
    return error


def check_hooks(plugin: object) -> None:
    """Raise PluginError for a method with the misspelt name of a hook, which would never be called."""
    for name in dir(plugin):
        if name.startswith("on_") and name not in _HOOKS:
            import difflib  # only here: 0.2 MB that hardly any program needs

            close = difflib.get_close_matches(name, _HOOKS, 1, _ALIKE)
            if close:
                raise PluginError(
                    f"{type(plugin).__qualname__}.{name} is never called; did you mean {close[0]}? "
                    "(rename the method if it is not a hook)"
                )


def _on_close(program: Program) -> Callable[[nri_sync.Stub], object] | None:
    return program.stub_options.get("on_close")


def _without_configuration(given: str, plugin: object) -> str:
    return (
        f"{given}: {type(plugin).__qualname__} has no configuration; name its class with "
        "kit.Program(..., config=Config)"
    )


def _makes_plugins(plugin: Any) -> bool:
    return isinstance(plugin, _MAKERS)


def _first_line(plugin: Any) -> str | None:
    """Return the first line of the plugin's own docstring, not that of a base class."""
    text = getattr(plugin.func if isinstance(plugin, functools.partial) else plugin, "__doc__", "")
    return text.strip().partition("\n")[0] if text else None
