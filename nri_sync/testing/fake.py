"""A container runtime for tests: it has pods and containers, and plugins on a socket, but runs nothing.

Its events are in :mod:`.events`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Callable, Protocol

from nri_sync import api
from nri_sync.api.nri_pb2 import Container, ContainerEviction, ContainerUpdate, PodSandbox
from nri_sync.deadline import Deadline
from nri_sync.errors import RuntimeStopped
from nri_sync.kit.program.definition import Program
from nri_sync.plugin.options import StubOptions, check_options
from nri_sync.plugin.stub import Stub
from nri_sync.runtime.runtime import DEFAULT_CONFIG_PATH
from nri_sync.testing.common import WITHIN, socket_directory
from nri_sync.testing.embedded import Embedded, Recorder
from nri_sync.testing.events import Events, InjectCDI
from nri_sync.testing.node import Node, split
from nri_sync.testing.refusals import possible
from nri_sync.testing.watch import Watch
from nri_sync.threads import Latch, signal_safe

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["FakeRuntime", "StartPlugin"]

# Seconds between two looks at a condition that may come to hold without an event here.
_LOOK_AGAIN = 0.05
# Seconds that the runtime has to let go of a plugin that has hung up.
_LET_GO_WITHIN = WITHIN


class StartPlugin(Protocol):
    """Starts a plugin, returns its stub, and stops it at the end: see :meth:`FakeRuntime.run_plugin`."""

    def __call__(
        self,
        plugin: object,
        *,
        name: str | None = ...,
        idx: str | None = ...,
        config: Any = ...,
        timeout: float = ...,
        **options: Unpack[StubOptions],
    ) -> Stub: ...


class FakeRuntime(Events):
    """The runtime side on a socket in a new directory, with pods and containers; a context manager.

    Each method sends an event to plugins, as containerd does, and keeps the resulting pod or container: a
    container has its state, and the settings of its OCI specification with the answers of plugins applied.
    Messages that are passed in stand for the pod or container of their id, and are never changed. Methods block
    until all plugins have answered; any thread may call them.

    They raise if a plugin fails the event: RequestFailed with the plugin's exception among its causes,
    ConflictError, ValidationRejected. With ``check=False`` that is in the ``error`` of the result.
    """

    def __init__(
        self,
        name: str = "containerd",
        version: str = "v2.4.2",
        *,
        nri_version: str = api.NRI_VERSION,
        registration_timeout: float = WITHIN,
        request_timeout: float = WITHIN,
        split_sync: bool = False,
        default_validator: object | None = None,
        inject_cdi: InjectCDI | None = None,
        socket_path: str | None = None,
        plugin_path: str | None = None,
        plugin_config_path: str = DEFAULT_CONFIG_PATH,
    ) -> None:
        """Starts nothing.

        Args:
            name, version, nri_version: of the runtime, as plugins get them, and the NRI release to act as: see
                :class:`nri_sync.runtime.Runtime`.
            registration_timeout, request_timeout: seconds that plugins have; longer than runtimes give them, so
                that a busy machine fails no test, and a debugger none either.
            split_sync: send Synchronize in several messages, as runtimes do when there are many containers.
            default_validator: see :class:`nri_sync.runtime.Runtime`.
            inject_cdi: called with an OCI specification and the names of CDI devices, when a container is created
                with some; changes the specification in place. Without it a container does not show them.
            socket_path: where to listen; default is in a new directory with a short path.
            plugin_path, plugin_config_path: the directories of plugins to launch, and of their configuration; by
                default no plugin is launched.
        """
        self._options: dict[str, Any] = {
            "nri_version": nri_version,
            "registration_timeout": registration_timeout,
            "request_timeout": request_timeout,
            "default_validator": default_validator,
            "plugin_path": plugin_path,
            "plugin_config_path": plugin_config_path,
        }
        #: What the release of the runtime knows, and takes without an effect.
        self.facts = api.runtime_facts(name, version, nri_version)
        super().__init__(Node(), Recorder(self._notify), inject_cdi)
        self.nri_version = nri_version
        self._name = name
        self._version = version
        self._split_sync = split_sync
        self._given_path = socket_path
        #: The ids of containers whose updates fail, when a plugin asks for them by itself.
        self.failing: set[str] = set()
        # Guards the replacement of the latch, which is set at each change.
        self._lock = threading.Lock()
        self._changed = Latch()
        # Lists that only grow: adding to one, and copying it, is atomic.
        self._updates: list[ContainerUpdate] = []
        self._evictions: list[ContainerEviction] = []
        self._watches: list[tuple[Stub, Watch]] = []
        self._directory = contextlib.ExitStack()
        self._runtime: Embedded | None = None
        self._path = socket_path or ""

    # Lifecycle

    def start(self) -> None:
        """Listen for plugins. Raises StartError if that is not possible, and AlreadyStarted."""
        if not self._path:
            self._path = self._directory.enter_context(socket_directory()) + "/nri.sock"
        if self._runtime is None:
            self._runtime = Embedded(
                self._name,
                self._version,
                synchronize=self._synchronize,
                update_containers=self._update_containers,
                socket_path=self._path,
                metrics=self._recorder,
                **self._options,
            )
        self._runtime.start()

    def stop(self) -> None:
        """Close all connections and the socket, as a runtime that ends. Pods and containers stay. Idempotent.

        Blocks until the stubs of :meth:`run_plugin` have seen the end, but not for their ``on_close``.
        """
        if self._runtime is not None:
            with self._losing():
                self._runtime.stop()
            self._notify()

    def restart(self) -> None:
        """:meth:`stop`, and :meth:`start` again on the same path: all plugins lose their connections."""
        self.stop()
        self.start()

    def close(self) -> None:
        """:meth:`stop`, and remove the socket's directory. Idempotent."""
        self.stop()
        # The next one may have another path.
        self._runtime = None
        self._directory.close()
        self._path = self._given_path or ""

    def __enter__(self) -> FakeRuntime:
        self.start()
        return self

    def __exit__(self, kind: object, *_exc_info: object) -> None:
        """Close; raise AssertionError if plugins are still connected."""
        left: tuple[str, ...] = ()
        if kind is None and self._runtime is not None:
            left = self._left(self._runtime)
        self.close()
        if left:
            raise AssertionError(
                f"still connected at the end of the test: {', '.join(left)}; stop each plugin that it starts"
            )

    def _left(self, runtime: Embedded) -> tuple[str, ...]:
        """The plugins that are connected, once those have had a moment to leave that were just stopped."""
        with contextlib.suppress(AssertionError):
            self.wait_for(lambda: not runtime.connected, timeout=WITHIN / 4)
        return runtime.connected

    # Pods, containers, plugins

    @property
    def socket_path(self) -> str:
        """Where plugins connect to; there from :meth:`start` on."""
        return self._path

    @property
    def plugins(self) -> tuple[str, ...]:
        """The full names, ``NN-name``, of the plugins that get events, in the order they are asked in.

        A plugin whose connection is over is not among them, nor asked, from when its ``stop()`` has returned.
        """
        return () if self._runtime is None else self._runtime.plugins

    @property
    def pods(self) -> list[PodSandbox]:
        """All pods, as they are now; copies."""
        return self._node.pods

    @property
    def containers(self) -> list[Container]:
        """All containers, as they are now; copies."""
        return self._node.containers

    def pod(self, pod: PodSandbox | str) -> PodSandbox:
        """A pod as it is now, by its id. Raises ValueError if there is none."""
        return self._node.pod(pod)

    def container(self, container: Container | str) -> Container:
        """A container as it is now, by its id. Raises ValueError if there is none."""
        return self._node.container(container)

    @property
    def updates(self) -> list[ContainerUpdate]:
        """The updates that plugins have asked for outside of any event, in order; failed ones too."""
        return self._updates.copy()

    @property
    def evictions(self) -> list[ContainerEviction]:
        """The containers that plugins have asked to be evicted by themselves. Nothing has come of it."""
        return self._evictions.copy()

    def wait_for(
        self, condition: Callable[[], object], what: str = "", timeout: float = WITHIN
    ) -> None:
        """Block until ``condition()`` holds. It is looked at when plugins come, go, or ask for something, and else
        now and then.

        ``runtime.wait_for(lambda: "10-test" in runtime.plugins)``. Raises AssertionError, with ``what`` in its
        text, after ``timeout`` seconds.
        """
        deadline = Deadline(timeout)
        while True:
            # In this order: a change since then has set it.
            changed = self._changed
            if condition():
                return
            if deadline.expired and not changed.is_set():
                plugins = ", ".join(self.plugins) or "none"
                raise AssertionError(
                    f"{what or 'what was waited for'} has not come about within "
                    f"{timeout:g} s; plugins: {plugins}"
                )
            remaining = deadline.remaining()
            changed.wait(
                Deadline(_LOOK_AGAIN if remaining is None else min(remaining, _LOOK_AGAIN))
            )

    @signal_safe
    def _notify(self) -> None:
        with self._lock:
            changed, self._changed = self._changed, Latch()
        changed.set()

    # Plugins

    @contextlib.contextmanager
    def run_plugin(
        self,
        plugin: object,
        *,
        name: str | None = None,
        idx: str | None = None,
        config: Any = "",
        timeout: float = WITHIN,
        **options: Unpack[StubOptions],
    ) -> Iterator[Stub]:
        """Start a plugin on this runtime, over the socket, and close its stub at the end of the block.

        Blocks until the plugin has been synchronized, and gets events; at the end, until the runtime has let go of
        it, so that later events do not reach it. The stub is that of an application: it can be
        stopped and started again, and asked for updates. At the end its interceptors are closed as well.

        Args:
            plugin: an object with handlers, or a :class:`nri_sync.kit.Program`; the plugin has its stub, its
                configuration, its interceptors and its hooks as in :func:`nri_sync.kit.run`.
            name, idx: default are those of the program, or ``10-test``.
            config: a text, which the runtime sends as to a plugin that it has launched; or the configuration
                itself, an object of the plugin's class.
            timeout: seconds for all that.
            options: further arguments of :class:`nri_sync.Stub`.

        Raises:
            StartError: it could not be started.
            ConfigError: ``config`` is an object, and the plugin refuses it.
            Unusable: ``config`` is a text, and the class of the plugin's configuration is not known.
            AssertionError: it was not synchronized; or, at the end of a block that raised nothing: a handler has
                raised an exception that has failed no event, or a handler is still running.
        """
        check_options("run_plugin", options, ("config", "idx", "name", "timeout"))
        program = Program.of(plugin)
        assembly = program.assemble(config=config)
        watch = Watch(config if isinstance(config, str) else "")
        closed = options.pop("on_close", None)
        interceptors = options.pop("interceptors", ())
        here: dict[str, Any] = {"dialer": None, "connection": None, **options}

        def on_close(stub: Stub) -> None:
            watch.closed()
            self._notify()
            assembly.call("on_disconnected", stub, stub.close_reason)
            if closed is not None:
                closed(stub)

        stub = assembly.stub(
            [watch, *interceptors],
            name=name or program.name or "test",
            idx=idx or program.idx or "10",
            socket_path=self.socket_path,
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
            self._settle()
            assembly.call("on_stop")
            raise
        stub.close(WITHIN / 4)
        self._settle()
        assembly.call("on_stop")
        _check_end(stub, watch)

    def _check_synchronized(self, stub: Stub, watch: Watch, timeout: float) -> None:
        reason: object = f"it has taken more than {timeout:g} s"
        if watch.wait_synchronized(timeout):
            runtime = self._started()
            # The runtime grants no block before it has taken in the answer of the plugin.
            with runtime.block_plugin_sync(timeout):
                connected = stub.name in runtime.connected
            stopped_itself = not stub.started and stub.close_reason is None
            if connected or stopped_itself:
                return
            reason = "the runtime has not accepted its answer; see the log"
        error = watch.take()
        reason = error or stub.close_reason or reason
        raise AssertionError(f"plugin {stub.name} was not synchronized: {reason!r}") from error

    def disconnect(self, plugin: Stub | str) -> None:
        """Close the connection of a plugin, by its stub or full name.

        Blocks until the plugin gets no more events, and its stub, if :meth:`run_plugin` has started that, has seen
        the end. The stub then calls its ``on_close``. Raises ValueError if there is no such plugin.
        """
        name = plugin if isinstance(plugin, str) else plugin.name
        with self._losing(name):
            if not self._started().disconnect(name):
                raise ValueError(f"plugin {name} is not connected")
            self._settle()

    @contextlib.contextmanager
    def _losing(self, name: str | None = None) -> Iterator[None]:
        """The block ends sessions of the plugin of that name, or of all. Returns when their stubs know."""
        running = [
            (stub, watch, watch.losses)
            for stub, watch in self._watches.copy()
            if name in (None, stub.name) and stub.started
        ]
        yield
        with contextlib.suppress(AssertionError):
            self.wait_for(
                lambda: all(
                    watch.losses > losses or not stub.started for stub, watch, losses in running
                )
            )

    def _settle(self) -> None:
        """Block until the runtime has let go of all plugins that have hung up.

        A runtime notices the end of a connection on another thread, and might send the next event to it.
        """
        if self._runtime is not None:
            is_leaving = self._runtime.leaving()
            self.wait_for(
                lambda: not is_leaving(), "the end of plugins that have hung up", _LET_GO_WITHIN
            )

    def _started(self) -> Embedded:
        if self._runtime is None:
            raise RuntimeStopped(
                "the runtime has not been started: call start(), or use it in a with statement"
            )
        return self._runtime

    def _raised(self, plugin: str, rpc: str) -> BaseException | None:
        watches = [watch for stub, watch in self._watches.copy() if stub.name == plugin]
        for watch in watches:
            error = watch.take(rpc)
            if error is not None:
                return error
        return None

    def _synchronize(self, sync: Any) -> None:
        pods, containers = self.pods, self.containers
        if self._split_sync:
            pods, containers = split(pods, containers)
        for update in possible(sync(pods, containers)):
            self._node.update(update)

    def _update_containers(
        self, updates: list[ContainerUpdate], evictions: list[ContainerEviction]
    ) -> list[ContainerUpdate]:
        failed = [
            update
            for update in updates
            if update.container_id in self.failing
            or not any(map(self._node.update, possible([update])))
        ]
        self._updates.extend(updates)
        self._evictions.extend(evictions)
        self._notify()
        return failed


def _check_end(stub: Stub, watch: Watch) -> None:
    """Raise AssertionError for an exception of a handler, or a handler that still runs."""
    running = watch.still_running()
    error = watch.take()
    if error is not None:
        raise AssertionError(f"a handler of plugin {stub.name} has raised {error!r}") from error
    if running:
        names = ", ".join(running)
        raise AssertionError(f"plugin {stub.name} was stopped, but still handles: {names}")
