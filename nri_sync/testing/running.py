"""The plugins that a test runs on a :class:`.FakeRuntime`, each with its stub."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from nri_sync.kit.program.definition import Program
from nri_sync.plugin.options import check_options
from nri_sync.plugin.stub import Stub
from nri_sync.testing.common import WITHIN
from nri_sync.testing.watch import Watch

if TYPE_CHECKING:
    from nri_sync.testing.fake import FakeRuntime

__all__ = ["RunningPlugins"]


class RunningPlugins:
    """Starts plugins on a runtime, and watches their handlers. Thread-safe."""

    def __init__(self, runtime: FakeRuntime) -> None:
        self._runtime = runtime
        # This list only grows; appending and copying are atomic.
        self._watches: list[tuple[Stub, Watch]] = []

    @contextlib.contextmanager
    def run(
        self,
        plugin: object,
        name: str | None,
        idx: str | None,
        config: Any,
        timeout: float,
        options: Any,
    ) -> Iterator[Stub]:
        """See :meth:`.FakeRuntime.run_plugin`."""
        check_options("run_plugin", options, ("config", "idx", "name", "timeout"))
        program = Program.of(plugin)
        assembly = program.assemble(config=config)
        watch = Watch(config if isinstance(config, str) else "")
        closed = options.pop("on_close", None)
        interceptors = options.pop("interceptors", ())
        here: dict[str, Any] = {"dialer": None, "connection": None, **options}

        def on_close(stub: Stub) -> None:
            watch.closed()
            self._runtime._notify()
            assembly.call("on_disconnected", stub, stub.close_reason)
            if closed is not None:
                closed(stub)

        stub = assembly.stub(
            [watch, *interceptors],
            name=name or program.name or "test",
            idx=idx or program.idx or "10",
            socket_path=self._runtime.socket_path,
            on_close=on_close,
            **here,
        )
        assembly.give(stub)
        self._watches.append((stub, watch))
        try:
            stub.start(timeout)
            assembly.call("on_connected", stub)
            self._check_synchronized(stub, watch, timeout)
            yield stub
            if stub.started:
                assembly.call("on_stopping")
        except BaseException:
            stub.close(0.0)
            self._runtime._settle()
            assembly.call("on_stop")
            raise
        stub.close(WITHIN / 4)
        self._runtime._settle()
        assembly.call("on_stop")
        _check_end(stub, watch)

    def _check_synchronized(self, stub: Stub, watch: Watch, timeout: float) -> None:
        reason: object = f"not within {timeout:g} s"
        if watch.wait_synchronized(timeout):
            runtime = self._runtime._started()
            # The runtime grants a block only after it has processed the plugin's answer to Synchronize.
            with runtime.block_plugin_sync(timeout):
                connected = stub.name in runtime.connected
            stopped_itself = not stub.started and stub.close_reason is None
            if connected or stopped_itself:
                return
            reason = "the runtime has rejected its answer; see the log"
        error = watch.take()
        reason = error or stub.close_reason or reason
        raise AssertionError(f"plugin {stub.name} was not synchronized: {reason!r}") from error

    @contextlib.contextmanager
    def losing(self, name: str | None = None) -> Iterator[None]:
        """The block ends the sessions of that plugin, or of all. Returns when their stubs have noticed."""
        running = [
            (stub, watch, watch.losses)
            for stub, watch in self._watches.copy()
            if name in (None, stub.name) and stub.started
        ]
        yield
        with contextlib.suppress(AssertionError):
            self._runtime.wait_for(
                lambda: all(
                    watch.losses > losses or not stub.started for stub, watch, losses in running
                )
            )

    def raised(self, plugin: str, rpc: str) -> BaseException | None:
        """An exception that a handler of the plugin has raised. Each call returns another one."""
        watches = [watch for stub, watch in self._watches.copy() if stub.name == plugin]
        for watch in watches:
            error = watch.take(rpc)
            if error is not None:
                return error
        return None


def _check_end(stub: Stub, watch: Watch) -> None:
    """Raise AssertionError for an exception of a handler, or a handler that still runs."""
    running = watch.still_running()
    error = watch.take()
    if error is not None:
        raise AssertionError(f"a handler of plugin {stub.name} has raised {error!r}") from error
    if running:
        names = ", ".join(running)
        raise AssertionError(f"plugin {stub.name} was stopped, but its handlers still run: {names}")
