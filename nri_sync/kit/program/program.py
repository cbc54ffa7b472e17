"""A plugin as a program: options, configuration, signals, reconnecting, health, logs and exit codes, in one call.

::

    if __name__ == "__main__":
        kit.main(MyPlugin, name="mine", idx="10")
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import enum
import functools
import inspect
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Callable, NoReturn

import nri_sync
from nri_sync import Interceptor, api
from nri_sync.errors import (
    ConfigError,
    ConnectionLost,
    ConnectionSpent,
    IdentityError,
    NRIError,
    PluginError,
    StartError,
    TurnTaken,
)
from nri_sync.kit.config.live import LiveConfig
from nri_sync.kit.health.file import HealthFile
from nri_sync.kit.health.health import Health
from nri_sync.kit.health.server import HealthServer
from nri_sync.kit.logs.logs import setup_logging
from nri_sync.kit.program.options import Options, add_options
from nri_sync.kit.program.supervisor import Supervisor
from nri_sync.kit.program.systemd import Notifier
from nri_sync.logger import get_logger
from nri_sync.plugin.handover import Handover
from nri_sync.plugin.options import StubOptions, check_options
from nri_sync.plugin.reconnect import keep_connected

if TYPE_CHECKING:
    from typing_extensions import Unpack
from nri_sync.text import indented

__all__ = ["ExitCode", "main", "run"]

logger = get_logger("nri_sync.kit.program")

# Beside those of a stub.
_OPTIONS = ("backoff", "config", "health")
_HOOKS = ("on_config", "on_connected", "on_disconnected", "on_stop")
# Of difflib: how much alike names are of which one is probably the other misspelt.
_ALIKE = 0.8


class ExitCode(enum.IntEnum):
    """Why a program has ended."""

    #: Stopped: by SIGTERM or SIGINT, or because the plugin stopped its stub.
    OK = 0
    #: Something raised that should not have: in the plugin, most likely. The log has the traceback.
    CRASHED = 1
    #: An option, or a variable of the environment, cannot be used.
    USAGE = 2
    #: The configuration cannot be read, is not what the plugin expects, or was refused by it.
    CONFIG = 3
    #: The runtime cannot be connected to.
    UNREACHABLE = 4
    #: The runtime was reached, but has not taken the plugin: refused, or no answer in time.
    REJECTED = 5
    #: The session was lost, and the program does not come back on its own.
    LOST = 6


def main(
    plugin: Any,
    *,
    config: Callable[..., object] | None = None,
    name: str | None = None,
    idx: str | int | None = None,
    description: str | None = None,
    argv: Sequence[str] | None = None,
    backoff: nri_sync.Backoff | None = None,
    health: Health | None = None,
    **stub_options: Unpack[StubOptions],
) -> NoReturn:
    """Be the program of a plugin: parse the options, run it, exit with an :class:`ExitCode`.

    Args:
        plugin: an object with handlers; or a class or function that makes it, called without arguments.
        config: a dataclass, or another function that :func:`nri_sync.kit.load` takes.
        name, idx: the plugin's, unless options or environment tell others.
        description: for ``--help``; default is the first line of the plugin's docstring.
        argv: default ``sys.argv[1:]``.
        backoff, health, stub_options: as of :func:`run`.

    Raises SystemExit; TypeError for an option that does not exist.
    """
    check_options("main", stub_options, _OPTIONS)
    parser = argparse.ArgumentParser(description=description or _first_line(plugin))
    add_options(parser, name=name, idx=idx)
    options = Options.of(parser.parse_args(argv))
    if options.config is not None and config is None:
        parser.error("argument --config: this plugin has no configuration")
    sys.exit(run(plugin, options, config=config, backoff=backoff, health=health, **stub_options))


def run(
    plugin: Any,
    options: Options | None = None,
    *,
    config: Callable[..., object] | None = None,
    backoff: nri_sync.Backoff | None = None,
    health: Health | None = None,
    **stub_options: Unpack[StubOptions],
) -> ExitCode:
    """Run a plugin until it is stopped, or fails. Blocks; on the main thread it takes over the signals meanwhile.

    SIGTERM and SIGINT stop it gracefully, the second one at once; SIGHUP reads the configuration file again. What
    goes wrong is logged. The plugin finds its stub as ``plugin.stub``, its configuration as ``plugin.config``. It
    may have the methods ``on_config(config)``, ``on_connected(stub)``, ``on_disconnected(stub, reason)`` and
    ``on_stop()``.

    Args:
        plugin, config: as of :func:`main`.
        backoff: how long to wait between attempts to connect.
        health: one of your own, with checks for example.
        stub_options: further keyword arguments of :class:`nri_sync.Stub`, such as ``interceptors``. At the end the
            stub is closed, and its interceptors with it.

    Raises TypeError for an option that does not exist. Everything else that goes wrong is in the ExitCode.
    """
    check_options("run", stub_options, _OPTIONS)
    options = options or Options()
    try:
        program = _Program(plugin, options, config, health, stub_options)
        with program.health_served():
            program.supervisor.run(lambda: program.work(backoff))
    except KeyboardInterrupt:
        pass  # before the supervisor has taken over
    except Exception as error:
        return _report(error, options)
    return ExitCode.OK


class _Program:
    """One run: the plugin and what stands around it."""

    def __init__(
        self,
        plugin: Any,
        options: Options,
        config: Callable[..., object] | None,
        health: Health | None,
        stub_options: StubOptions,
    ) -> None:
        requests = setup_logging(options.log_format, options.log_level, dump=options.dump)
        self.plugin = plugin() if _makes_plugins(plugin) else plugin
        _check_hooks(self.plugin)
        self.options = options
        self.notifier = Notifier()
        self._ready = False
        self.launched = _is_launched(options)
        if health is None and (
            options.health_address or options.health_file or self.notifier.watchdog_interval
        ):
            health = Health()
        self.health = health
        self.config = self._live_config(config)
        given = stub_options.get("interceptors", ())
        own: list[Interceptor] = [requests, *([] if health is None else [health])]
        if options.handover and not self.launched:
            with _naming(f"--handover {options.handover}"):
                handover = Handover(options.handover)
            handover.on_change(self._on_standby)
            own.insert(0, handover)
        stub_options["interceptors"] = [*own, *given]
        self.stub = nri_sync.Stub(
            self.plugin if self.config is None else self.config.plugin(),
            name=options.name,
            idx=options.idx,
            socket_path=options.socket,
            **stub_options,
        )
        # Before the plugin has the stub, and may stop it.
        self._stopped = self.stub.until_stopped()
        with contextlib.suppress(AttributeError):  # one that has no room for it needs none
            self.plugin.stub = self.stub
        self.supervisor = Supervisor(
            stop=self.stop, reload=self.reload, alive=self.is_alive, notifier=self.notifier
        )
        self._connected = False

    def _live_config(self, cls: Callable[..., object] | None) -> LiveConfig | None:
        if cls is None:
            return None
        without = (
            "the configuration from the runtime, which has none for this plugin"
            if self.launched
            else "the configuration, which is empty (there is no --config FILE)"
        )
        config = LiveConfig(self.plugin, cls, self.options.config, without=without)
        if config.path is not None:
            config.read_file()
        return config

    @contextlib.contextmanager
    def health_served(self) -> Iterator[None]:
        """For the time of the block, as the options want it."""
        with contextlib.ExitStack() as cleanup:
            if self.health is not None and self.options.health_address:
                with _naming(f"--health-address {self.options.health_address}"):
                    server = HealthServer(self.health, self.options.health_address)
                    cleanup.enter_context(server)
            if self.health is not None and self.options.health_file:
                with _naming(f"--health-file {self.options.health_file}"):
                    cleanup.enter_context(HealthFile(self.health, self.options.health_file))
            yield

    def is_alive(self) -> bool:
        return self.health is None or self.health.report().live

    # On the thread that works

    def work(self, backoff: nri_sync.Backoff | None) -> None:
        """Be connected until there is an end to it."""
        if self.options.retry_first:
            self._tell_ready(f"connecting to {self.options.socket or api.DEFAULT_SOCKET_PATH}")
        try:
            keep_connected(
                self.stub,
                self._stopped,
                backoff=backoff,
                fail_fast=self.launched or not self.options.retry_first,
                on_connected=self._on_connected,
                on_disconnected=self._on_disconnected,
            )
        finally:
            self.stub.close(0.0)
            if not self.supervisor.stopping:
                self.notifier.stopping()
            try:
                self._call("on_stop")
            finally:
                if self.stub.handover is not None:
                    self.stub.handover.release()

    def _on_standby(self) -> None:
        handover = self.stub.handover
        if handover is not None and handover.is_waiting:
            self._tell_ready("standing by, as another instance serves")

    def _on_connected(self, stub: nri_sync.Stub) -> None:
        self._connected = True
        self._tell_ready(f"serving {stub.runtime_name} {stub.runtime_version}")
        self._call("on_connected", stub)

    def _on_disconnected(self, stub: nri_sync.Stub, reason: NRIError) -> None:
        self._call("on_disconnected", stub, reason)
        if self._connected and (self.launched or not self.options.reconnect):
            raise reason
        logger.warning("%s", indented(_explain(reason)))
        self.notifier.status(f"trying again: {_explain(reason)}")

    def _call(self, hook: str, *arguments: object) -> None:
        method = getattr(self.plugin, hook, None)
        if method is not None:
            method(*arguments)

    def _tell_ready(self, status: str) -> None:
        if self._ready:
            self.notifier.status(status)
        else:
            self._ready = True
            self.notifier.ready(status)

    # On threads of their own

    def stop(self) -> None:
        """Let the handlers in flight finish, then end the work."""
        self.notifier.stopping()
        self.stub.close(self.options.grace)

    def reload(self) -> None:
        """Read the configuration file again."""
        if self.config is None or self.config.path is None:
            logger.info("SIGHUP: there is no configuration file to read again")
            return
        self.notifier.reloading()
        try:
            self.config.read_file()
        except ConfigError as error:
            logger.error("%s", indented(error))
            logger.error("the configuration stays as it was")
        except Exception:
            logger.exception("on_config failed; the configuration stays as it was")
        if self._ready and not self.supervisor.stopping:
            self.notifier.ready()


class _Unusable(NRIError):
    """An option cannot be used, which only shows when it is tried."""


@contextlib.contextmanager
def _naming(option: str) -> Iterator[None]:
    """Tell which option is to blame for what the system refuses."""
    try:
        yield
    except OSError as error:
        raise _Unusable(f"{option}: {error.strerror or error}") from error


def _is_launched(options: Options) -> bool:
    """Whether the runtime has launched this process; not when an option tells otherwise."""
    if options.socket is not None:
        os.environ.pop(api.ENV_PLUGIN_SOCKET, None)
    return bool(os.environ.get(api.ENV_PLUGIN_SOCKET))


def _makes_plugins(plugin: Any) -> bool:
    return (
        isinstance(plugin, type)
        or inspect.isroutine(plugin)
        or isinstance(plugin, functools.partial)
    )


def _check_hooks(plugin: object) -> None:
    """Refuse a method that would silently never be called, as the stub does with handlers."""
    for name in dir(plugin):
        if name.startswith("on_") and name not in _HOOKS:
            close = difflib.get_close_matches(name, _HOOKS, 1, _ALIKE)
            if close:
                raise PluginError(
                    f"{type(plugin).__qualname__}.{name} is never called, is {close[0]} meant? "
                    "(a method that is meant to be something else needs another name)"
                )


def _first_line(plugin: Any) -> str | None:
    """Of its own docstring, not that of a base class."""
    text = getattr(plugin.func if isinstance(plugin, functools.partial) else plugin, "__doc__", "")
    return text.strip().partition("\n")[0] if text else None


def _config_error(error: BaseException | None) -> ConfigError | None:
    """What made Configure fail, where that was the configuration."""
    while error is not None and not isinstance(error, ConfigError):
        error = error.__cause__ or error.__context__
    return error


def _explain(error: BaseException) -> str:
    return str(_config_error(error) or error) or repr(error)


def _exit_code(error: Exception) -> ExitCode:
    if _config_error(error) is not None:
        return ExitCode.CONFIG
    if isinstance(error, (IdentityError, _Unusable)):
        return ExitCode.USAGE
    if isinstance(error, (ConnectionLost, ConnectionSpent, TurnTaken)):
        return ExitCode.LOST
    if isinstance(error, StartError):
        if error.phase == "dial":
            return ExitCode.UNREACHABLE
        raised_by_plugin = error.__cause__ is not None and not isinstance(error.__cause__, NRIError)
        return ExitCode.CRASHED if raised_by_plugin else ExitCode.REJECTED
    return ExitCode.CRASHED


def _report(error: Exception, options: Options) -> ExitCode:
    """Log why the program ends. Errors that tell what to do have no traceback, unless that is asked for."""
    surprise = not isinstance(error, NRIError)
    text = f"{type(error).__name__}: {error}" if surprise else _explain(error)
    logger.critical("%s", indented(text), exc_info=error if surprise or options.traceback else None)
    return _exit_code(error)
