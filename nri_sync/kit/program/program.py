"""Runs a plugin as a program, with options, configuration, signals, reconnecting, health, logs and exit codes.

::

    if __name__ == "__main__":
        kit.main(MyPlugin, name="mine", idx="10")

:class:`nri_sync.kit.Program` holds the same arguments as an object, which the commands and the test kit take, too.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Callable, NoReturn

import nri_sync
from nri_sync import Handover, Interceptor, api
from nri_sync.deadline import Deadline
from nri_sync.errors import (
    ConfigError,
    NoThread,
    NRIError,
)
from nri_sync.kit.health.file import HealthFile
from nri_sync.kit.health.health import Health
from nri_sync.kit.logs.logs import setup_logging
from nri_sync.kit.program.definition import Program, Unusable
from nri_sync.kit.program.exits import ExitCode, explain, report
from nri_sync.kit.program.options import Options, add_options
from nri_sync.kit.program.supervisor import Supervisor
from nri_sync.kit.program.systemd import Notifier
from nri_sync.logger import get_logger
from nri_sync.plugin.options import StubOptions
from nri_sync.plugin.reconnect import keep_connected, until_stopped

if TYPE_CHECKING:
    from typing_extensions import Unpack
from nri_sync.text import indented
from nri_sync.threads import spawn

__all__ = ["main", "run"]

logger = get_logger("nri_sync.kit.program")


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
    """Run the program of a plugin: parse the options, run the plugin, and exit with an :class:`ExitCode`.

    Args:
        plugin: an object with handlers; or a class or function without parameters that makes the object; or a
            :class:`nri_sync.kit.Program`, which holds the arguments below already.
        config: a dataclass, or another type or function that :func:`nri_sync.kit.load` takes. Default: the
            plugin's attribute ``Config``.
        name, idx: the plugin's name and index. Options and the environment override them.
        description: the text for ``--help``. Default: the first line of the plugin's docstring.
        argv: the arguments of the command. Default: ``sys.argv[1:]``.
        backoff, health, stub_options: as for :func:`run`.

    Does not return: raises SystemExit with the exit code, or TypeError for an unknown argument.
    """
    program = _program(
        "main",
        plugin,
        config=config,
        name=name,
        idx=idx,
        description=description,
        backoff=backoff,
        health=health,
        **stub_options,
    )
    parser = argparse.ArgumentParser(description=program.description)
    add_options(parser, name=program.name, idx=program.idx)
    options = Options.of(parser.parse_args(argv))
    if options.config is not None and program.has_no_configuration:
        parser.error("argument --config: this plugin has no configuration")
    sys.exit(run(program, options))


def run(
    plugin: Any,
    options: Options | None = None,
    *,
    config: Callable[..., object] | None = None,
    backoff: nri_sync.Backoff | None = None,
    health: Health | None = None,
    **stub_options: Unpack[StubOptions],
) -> ExitCode:
    """Run a plugin until the plugin is stopped or fails. Blocks. On the main thread the call handles the signals.

    SIGTERM and SIGINT stop the plugin gracefully; a second signal ends the process at once. SIGHUP reads the
    configuration file again. The program logs errors. It sets ``plugin.stub`` to the stub, and ``plugin.config``
    to the configuration. The plugin may have the methods ``on_config(config)``, ``on_connected(stub)``,
    ``on_disconnected(stub, reason)``, ``on_stopping()`` and ``on_stop()``.

    Args:
        plugin, config: as for :func:`main`.
        backoff: the delays between attempts to connect.
        health: a Health of your own, for example with checks.
        stub_options: further keyword arguments of :class:`nri_sync.Stub`, such as ``interceptors``. At its end the
            program closes the stub, and the stub closes its interceptors.

    Raises TypeError for an unknown argument. The ExitCode reports all other failures.
    """
    program = _program("run", plugin, config=config, backoff=backoff, health=health, **stub_options)
    options = options or Options()
    try:
        with _switching(options.switch_interval):
            run = _Run(program, options)
            with run.health_served():
                run.supervisor.run(run.work)
    except KeyboardInterrupt:
        pass  # raised before the supervisor handled the signals
    except Exception as error:
        return report(error, traceback=options.traceback)
    return ExitCode.OK


@contextlib.contextmanager
def _switching(interval: float) -> Iterator[None]:
    """Set the interpreter's switch interval, in seconds, during the block; 0 changes nothing."""
    before = sys.getswitchinterval()
    if interval:
        sys.setswitchinterval(interval)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _program(function: str, plugin: Any, **options: Any) -> Program:
    """Return the program that the arguments of ``function`` describe."""
    given = {name: value for name, value in options.items() if value is not None}
    if not isinstance(plugin, Program):
        try:
            return Program(plugin, **given)
        except TypeError as error:
            raise TypeError(str(error).replace("Program()", f"{function}()", 1)) from None
    if given:
        raise TypeError(
            f"{function}() takes no other argument with a Program; pass {', '.join(given)} to the Program"
        )
    return plugin


class _Run:
    """One run of a program: the plugin, its stub, and its supervisor."""

    def __init__(self, program: Program, options: Options) -> None:
        requests = setup_logging(options.log_format, options.log_level, dump=options.dump)
        self.program = program.with_plugin_made()
        self.options = options
        self.notifier = Notifier()
        self._ready = False
        self.launched = _is_launched(options)
        if self.program.health is None and (
            options.health_address or options.health_file or self.notifier.watchdog_interval
        ):
            self.program = self.program.with_health(Health())
        self.health = self.program.health
        self.assembly = self.program.assemble(
            config_path=options.config,
            without="the configuration from the runtime, which has none for this plugin"
            if self.launched
            else "the configuration, which is empty (there is no --config FILE)",
        )
        self.config = self.assembly.config
        own: list[Interceptor] = [requests]
        if options.handover and not self.launched:
            with _naming(f"--handover {options.handover}"):
                handover = Handover(options.handover)
            handover.on_change(self._on_standby)
            own.insert(0, handover)
        self.stub = self.assembly.stub(
            own,
            name=options.name or program.name,
            idx=options.idx or program.idx,
            socket_path=options.socket,
        )
        # This comes before the plugin gets the stub: the plugin may stop it.
        self._stopped = until_stopped(self.stub)
        self.assembly.give(self.stub)
        self.supervisor = Supervisor(
            stop=self.stop, reload=self.reload, alive=self.is_alive, notifier=self.notifier
        )
        self._connected = False
        self._failed_stopping: Exception | None = None

    @contextlib.contextmanager
    def health_served(self) -> Iterator[None]:
        """Serve the health during the block, as the options request."""
        with contextlib.ExitStack() as cleanup:
            if self.health is not None and self.options.health_address:
                # The import is local: the HTTP server takes 6 MB of memory.
                from nri_sync.kit.health.server import HealthServer

                with _naming(f"--health-address {self.options.health_address}"):
                    server = HealthServer(self.health, self.options.health_address)
                    cleanup.enter_context(server)
            if self.health is not None and self.options.health_file:
                with _naming(f"--health-file {self.options.health_file}"):
                    cleanup.enter_context(HealthFile(self.health, self.options.health_file))
            yield

    def is_alive(self) -> bool:
        return self.health is None or self.health.report().live

    # On the work thread

    def work(self) -> None:
        """Keep the stub connected until the program ends."""
        if self.options.retry_first:
            self._report_ready(f"connecting to {self.options.socket or api.DEFAULT_SOCKET_PATH}")
        try:
            keep_connected(
                self.stub,
                self._stopped,
                backoff=self.program.backoff,
                fail_fast=self.launched or not self.options.retry_first,
                on_connected=self._on_connected,
                on_disconnected=self._on_disconnected,
            )
        finally:
            self.stub.close(0.0)
            if not self.supervisor.stopping:
                self.notifier.stopping()
            try:
                self.assembly.call("on_stop")
            finally:
                if self.stub.handover is not None:
                    self.stub.handover.release()
        if self._failed_stopping is not None:
            raise self._failed_stopping

    def _on_standby(self) -> None:
        handover = self.stub.handover
        if handover is not None and handover.is_waiting:
            self._report_ready("standing by while another instance serves")

    def _on_connected(self, stub: nri_sync.Stub) -> None:
        self._connected = True
        self._report_ready(f"serving {stub.runtime_name} {stub.runtime_version}")
        self.assembly.call("on_connected", stub)

    def _on_disconnected(self, stub: nri_sync.Stub, reason: NRIError) -> None:
        self.assembly.call("on_disconnected", stub, reason)
        if self._connected and (self.launched or not self.options.reconnect):
            raise reason
        logger.warning("%s", indented(explain(reason)))
        self.notifier.status(f"reconnecting: {explain(reason)}")

    def _report_ready(self, status: str) -> None:
        if self._ready:
            self.notifier.status(status)
        else:
            self._ready = True
            self.notifier.ready(status)

    # Each on its own thread

    def stop(self) -> None:
        """Run ``on_stopping``, let the handlers in flight finish, then end the work."""
        self.notifier.stopping()
        grace = Deadline(self.options.grace)
        if self.stub.started and hasattr(self.assembly.plugin, "on_stopping"):
            try:
                over = spawn("nri-stopping", self._stopping)
            except NoThread:
                self._stopping()
            else:
                if not over.wait(grace):
                    logger.warning(
                        "on_stopping has not returned within the grace of %g s", self.options.grace
                    )
        self.stub.close(grace.remaining() or 0.0)

    def _stopping(self) -> None:
        try:
            self.assembly.call("on_stopping")
        except Exception as error:
            # The program ends in any case; work() raises the error for the exit code.
            self._failed_stopping = error

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
            logger.error("the former configuration stays in use")
        except Exception:
            logger.exception("on_config failed; the former configuration stays in use")
        if self._ready and not self.supervisor.stopping:
            self.notifier.ready()


@contextlib.contextmanager
def _naming(option: str) -> Iterator[None]:
    """Name the option in the error if the system refuses its value."""
    try:
        yield
    except OSError as error:
        raise Unusable(f"{option}: {error.strerror or error}") from error


def _is_launched(options: Options) -> bool:
    """Whether the runtime has launched this process. A process with the option ``--socket`` does not count."""
    if options.socket is not None:
        os.environ.pop(api.ENV_PLUGIN_SOCKET, None)
    return bool(os.environ.get(api.ENV_PLUGIN_SOCKET))
