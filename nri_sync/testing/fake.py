"""A container runtime for tests: it has pods, containers, and plugins on a socket, but runs no processes.

Its events are in :mod:`.events`.
"""

from __future__ import annotations

import contextlib
import os
import threading
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Callable, Protocol

from nri_sync import api
from nri_sync.api.nri_pb2 import Container, ContainerEviction, ContainerUpdate, PodSandbox
from nri_sync.deadline import Deadline
from nri_sync.errors import RuntimeStopped
from nri_sync.plugin.options import StubOptions
from nri_sync.plugin.stub import Stub
from nri_sync.runtime.runtime import DEFAULT_CONFIG_PATH
from nri_sync.testing.common import WITHIN, socket_directory
from nri_sync.testing.embedded import AnswerRecorder, Embedded
from nri_sync.testing.events import Events, InjectCDI
from nri_sync.testing.node import Node, split
from nri_sync.testing.refusals import possible
from nri_sync.testing.running import RunningPlugins
from nri_sync.testing.runtime_traits import traits_of
from nri_sync.threads import Latch, signal_safe

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["LET_GO_WITHIN", "FakeRuntime", "StartPlugin"]

# Seconds between two checks of a condition that may become true without a notification.
_LOOK_AGAIN = 0.05
# Seconds that the runtime may need to drop a plugin that has disconnected.
LET_GO_WITHIN = WITHIN


class StartPlugin(Protocol):
    """Starts a plugin, returns its stub, and stops the plugin at the end: see :meth:`FakeRuntime.run_plugin`."""

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
    A message argument identifies the pod or container by its id; the methods never change the message. Methods
    block until all plugins have answered. Any thread may call them.

    A method raises if a plugin fails the event: RequestFailed with the plugin's exception among its causes,
    ConflictError, ValidationRejected. With ``check=False`` the result has the exception in ``error`` instead.
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
        socket_path: str | os.PathLike[str] | None = None,
        plugin_path: str | os.PathLike[str] | None = None,
        plugin_config_path: str | os.PathLike[str] = DEFAULT_CONFIG_PATH,
    ) -> None:
        """Starts nothing.

        Args:
            name, version: the runtime's name and version, which plugins receive.
            nri_version: the NRI release to act as: see :class:`nri_sync.runtime.Runtime`.
            registration_timeout, request_timeout: time limits for plugins, in seconds. They are longer than those
                of real runtimes, so that neither a busy machine nor a debugger fails a test.
            split_sync: send Synchronize in several messages, as runtimes do for many containers.
            default_validator: see :class:`nri_sync.runtime.Runtime`.
            inject_cdi: called with an OCI specification and the names of CDI devices, for a new container that has
                some; changes the specification in place. Without it, such devices do not appear in the container.
            socket_path: the socket for plugins; default is in a new directory with a short path.
            plugin_path, plugin_config_path: the directories of plugins to launch, and of their configuration; by
                default the runtime launches no plugin.
        """
        self._options: dict[str, Any] = {
            "nri_version": nri_version,
            "registration_timeout": registration_timeout,
            "request_timeout": request_timeout,
            "default_validator": default_validator,
            "plugin_path": plugin_path,
            "plugin_config_path": plugin_config_path,
        }
        #: The fields that the runtime's release knows, and the fields that it accepts without an effect.
        self.facts = api.runtime_facts(name, version, nri_version)
        self.traits = traits_of(name)
        super().__init__(Node(), AnswerRecorder(self._notify), inject_cdi)
        self.nri_version = nri_version
        self._name = name
        self._version = version
        self._split_sync = split_sync
        self._given_path = os.fspath(socket_path or "")
        #: The ids of containers for which the unsolicited updates of plugins fail.
        self.failing: set[str] = set()
        # Guards the replacement of the latch. Each change sets the current latch.
        self._lock = threading.Lock()
        self._changed = Latch()
        # These lists only grow; appending and copying are atomic.
        # The updates and evictions of each request; one list, so that a test never sees a part of a request.
        self._asked: list[tuple[list[ContainerUpdate], list[ContainerEviction]]] = []
        self._running = RunningPlugins(self)
        self._directory = contextlib.ExitStack()
        self._runtime: Embedded | None = None
        self._path = self._given_path

    # Lifecycle

    def start(self) -> None:
        """Listen for plugins. Raises StartError if that fails, and AlreadyStarted."""
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
        """Close all connections and the socket, like a runtime that ends. Pods and containers stay. Idempotent.

        Blocks until the stubs of :meth:`run_plugin` have noticed the end; it does not wait for their ``on_close``.
        """
        if self._runtime is not None:
            with self._running.losing():
                self._runtime.stop()
            self._notify()

    def restart(self) -> None:
        """:meth:`stop`, and :meth:`start` on the same path: all plugins lose their connections."""
        self.stop()
        self.start()

    def close(self) -> None:
        """:meth:`stop`, and remove the socket's directory. Idempotent."""
        self.stop()
        # The next start() may get another path.
        self._runtime = None
        self._directory.close()
        self._path = self._given_path

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
                f"still connected at the end of the test: {', '.join(left)}; stop each plugin that the test starts"
            )

    def _left(self, runtime: Embedded) -> tuple[str, ...]:
        """The connected plugins. Plugins that have just been stopped get a moment to disconnect first."""
        with contextlib.suppress(AssertionError):
            self.wait_for(lambda: not runtime.connected, timeout=WITHIN / 4)
        return runtime.connected

    # Pods, containers, plugins

    @property
    def socket_path(self) -> str:
        """The socket for plugins; it exists after :meth:`start`."""
        return self._path

    @property
    def plugins(self) -> tuple[str, ...]:
        """The full names, ``NN-name``, of the plugins that receive events, in the order of their calls.

        After a plugin's ``stop()`` has returned, the plugin is no longer among them, and receives no events.
        """
        return () if self._runtime is None else self._runtime.plugins

    @property
    def pods(self) -> list[PodSandbox]:
        """Copies of all pods in their current state."""
        return self._node.pods

    @property
    def containers(self) -> list[Container]:
        """Copies of all containers in their current state."""
        return self._node.containers

    def pod(self, pod: PodSandbox | str) -> PodSandbox:
        """The current state of a pod, by its id. Raises ValueError if there is none."""
        return self._node.pod(pod)

    def container(self, container: Container | str) -> Container:
        """The current state of a container, by its id. Raises ValueError if there is none."""
        return self._node.container(container)

    @property
    def updates(self) -> list[ContainerUpdate]:
        """The updates that plugins have requested outside of events, in order, including failed ones."""
        return [update for updates, _ in self._asked.copy() for update in updates]

    @property
    def evictions(self) -> list[ContainerEviction]:
        """The evictions that plugins have requested. The runtime does not carry them out."""
        return [eviction for _, evictions in self._asked.copy() for eviction in evictions]

    def wait_for(
        self, condition: Callable[[], object], what: str = "", timeout: float = WITHIN
    ) -> None:
        """Block until ``condition()`` is true.

        ``runtime.wait_for(lambda: "10-test" in runtime.plugins)``. The method checks the condition when a plugin
        connects, disconnects or sends a request, and periodically. After ``timeout`` seconds it raises
        AssertionError; ``what`` names the condition in the error's text.
        """
        deadline = Deadline(timeout)
        while True:
            # Read the latch before the condition: a later change sets this latch.
            changed = self._changed
            if condition():
                return
            if deadline.expired and not changed.is_set():
                plugins = ", ".join(self.plugins) or "none"
                raise AssertionError(
                    f"{what or 'the condition of wait_for()'} has not come about within "
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

    def run_plugin(
        self,
        plugin: object,
        *,
        name: str | None = None,
        idx: str | None = None,
        config: Any = "",
        timeout: float = WITHIN,
        **options: Unpack[StubOptions],
    ) -> AbstractContextManager[Stub]:
        """Start a plugin on this runtime, over the socket, and close its stub at the end of the block.

        Blocks until the plugin has been synchronized, and receives events. At the end it blocks until the runtime
        has dropped the plugin, so that the plugin receives no later events. The block may stop and start the stub,
        and request updates by it, like an application. At the end the stub's interceptors are closed as well.

        Args:
            plugin: an object with handlers, or a :class:`nri_sync.kit.Program`. The plugin gets its stub, its
                configuration, its interceptors and its hooks as in :func:`nri_sync.kit.run`.
            name, idx: default are those of the program, or ``10-test``.
            config: a text, which the runtime sends as it does to a plugin that it has launched; or a configuration
                object of the plugin's class.
            timeout: seconds for connecting, and for the synchronization.
            options: further arguments of :class:`nri_sync.Stub`.

        Raises:
            StartError: the plugin could not start.
            ConfigError: ``config`` is an object, and the plugin rejects it.
            Unusable: ``config`` is a text, and the plugin has no known configuration class.
            AssertionError: the plugin was not synchronized. Or, at the end of a block that raised nothing: a
                handler has raised an exception that has failed no event, or a handler is still running.
        """
        return self._running.run(plugin, name, idx, config, timeout, options)

    def disconnect(self, plugin: Stub | str) -> None:
        """Close the connection of a plugin, by its stub or full name.

        Blocks until the plugin receives no more events. If :meth:`run_plugin` has started its stub, blocks also
        until the stub has noticed the end; the stub then calls its ``on_close``. Raises ValueError if there is no
        such plugin.
        """
        name = plugin if isinstance(plugin, str) else plugin.name
        with self._running.losing(name):
            if not self._started().disconnect(name):
                raise ValueError(f"plugin {name} is not connected")
            self._settle()

    def _settle(self) -> None:
        """Block until the runtime has dropped all plugins that have disconnected.

        A runtime notices the end of a connection on another thread, and might otherwise send the next event there.
        """
        if self._runtime is not None:
            is_leaving = self._runtime.leaving()
            self.wait_for(
                lambda: not is_leaving(), "the removal of disconnected plugins", LET_GO_WITHIN
            )

    def _started(self) -> Embedded:
        if self._runtime is None:
            raise RuntimeStopped(
                "the runtime has not been started: call start(), or use the runtime in a with statement"
            )
        return self._runtime

    def _raised(self, plugin: str, rpc: str) -> BaseException | None:
        return self._running.raised(plugin, rpc)

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
        self._asked.append((updates, evictions))
        self._notify()
        return failed
