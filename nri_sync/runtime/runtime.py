"""The runtime side of NRI: serves plugins, and sends them the events of pods and containers."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from functools import partial
from typing import Any, Callable

from nri_sync import api, fork
from nri_sync.api import (
    Container,
    CreateContainerResponse,
    LinuxResources,
    PodSandbox,
    StopContainerResponse,
    UpdateContainerResponse,
    nri_pb2,
)
from nri_sync.deadline import Deadline
from nri_sync.errors import AlreadyStarted, RuntimeStopped
from nri_sync.patched import check_unpatched
from nri_sync.runtime.metrics import Metrics, SafeMetrics
from nri_sync.runtime.peer import UpdateContainers
from nri_sync.runtime.registry import PluginRegistry
from nri_sync.runtime.relay import Relay
from nri_sync.runtime.settings import Settings, Synchronize
from nri_sync.runtime.sync_lock import SyncBlock
from nri_sync.threads import call_off_main

__all__ = ["DEFAULT_CONFIG_PATH", "DEFAULT_PLUGIN_PATH", "Runtime"]

#: The directories where the reference looks for plugins to launch and for their configuration.
DEFAULT_PLUGIN_PATH = "/opt/nri/plugins"
DEFAULT_CONFIG_PATH = "/etc/nri/conf.d"


class _Serving:
    """The objects that exist from start() to stop()."""

    def __init__(self, settings: Settings, metrics: SafeMetrics) -> None:
        self.registry = PluginRegistry(settings, metrics)
        self.relay = Relay(
            members=lambda: self.registry.members,
            request_timeout=settings.request_timeout,
            metrics=metrics,
            stopped=lambda: not self.registry.serving,
        )


class Runtime:
    """Serves plugins, on behalf of a container runtime. All methods may be called from any thread.

    Plugins connect to a socket, are launched, or are objects of this process. Call the method of each event. It
    sends the event to all subscribed plugins, one after the other in the order of their indexes, and returns their
    merged answer. One event is relayed at a time; other calls wait.

    A method that is called on the main thread does its work on another thread, so that an interrupt leaves no lock
    held. After an interrupt, start() is undone; the work of every other method continues to its end in the
    background.

    May be started again after :meth:`stop`. As a context manager: :meth:`start` ... :meth:`stop`.
    """

    def __init__(
        self,
        name: str,
        version: str,
        *,
        synchronize: Synchronize,
        update_containers: UpdateContainers,
        socket_path: str | os.PathLike[str] | None = api.DEFAULT_SOCKET_PATH,
        plugin_path: str | os.PathLike[str] | None = DEFAULT_PLUGIN_PATH,
        plugin_config_path: str | os.PathLike[str] = DEFAULT_CONFIG_PATH,
        plugins: Mapping[str, object] | None = None,
        default_validator: object | None = None,
        registration_timeout: float = api.DEFAULT_REGISTRATION_TIMEOUT,
        request_timeout: float = api.DEFAULT_REQUEST_TIMEOUT,
        metrics: Metrics | None = None,
        nri_version: str = api.NRI_VERSION,
        max_unregistered: int = 64,
        exit_grace: float = 2.0,
    ) -> None:
        """Check the arguments; start nothing.

        Args:
            name: the name of the container runtime, as plugins receive it.
            version: the release of the container runtime.
            synchronize: the runtime calls it with a function ``sync``, once for all plugins of the start, and once
                for each plugin that connects later. It has to call ``sync(pods, containers)`` once, with all
                existing pods and containers, and to apply the updates that ``sync`` returns. An exception of
                either is logged, and the plugin is closed. Several threads may call ``synchronize`` at once. No
                event may be sent during the call: see :meth:`block_plugin_sync`.
            update_containers: applies the unsolicited updates and evictions of a plugin; returns the updates that
                failed. Several threads may call it at once, also while an event is relayed.
            socket_path: the path of the socket for plugins; None: plugins cannot connect.
            plugin_path: the directory with the plugins to launch; None: no plugin is launched.
            plugin_config_path: the directory with the configuration of launched plugins.
            plugins: the plugins in this process: objects with handlers, by full name ``NN-name``. Their handlers
                run on the thread that relays the event, which is never the main thread, without a time limit.
            default_validator: one more plugin in this process, the first, with the name ``00-default-validator``:
                see :class:`DefaultValidator`.
            registration_timeout: seconds from the connection of a plugin to its registration.
            request_timeout: seconds for the answer to a request; for Synchronize, to all its parts together.
            metrics: receives the figures of each call, see :class:`Metrics`.
            nri_version: the NRI release that plugins receive. If it is older than the release of this package, the
                runtime acts as that release towards plugins that connect or are launched: before v0.12 most events
                are a StateChange, and the runtime neither sends nor reads events and fields that are newer.
            max_unregistered: the largest number of connections that may wait for their registration. Beyond it,
                the oldest connection of the process with the most connections is closed.
            exit_grace: seconds from the end of a launched plugin's connection to SIGTERM, and from SIGTERM to
                SIGKILL.

        Raises:
            TypeError, ValueError: an argument has a wrong type or value.
            PluginError: one of ``plugins`` has no handlers, or invalid ones.
        """
        in_process: dict[str, object] = {}
        if default_validator is not None:
            in_process["00-default-validator"] = default_validator
        in_process.update(plugins or {})
        check_unpatched("a runtime")
        self._settings = Settings(
            name=name,
            version=version,
            nri_version=nri_version,
            synchronize=synchronize,
            update_containers=update_containers,
            socket_path=None if socket_path is None else os.fspath(socket_path),
            plugin_path=None if plugin_path is None else os.fspath(plugin_path),
            plugin_config_path=os.fspath(plugin_config_path),
            plugins=in_process,
            registration_timeout=registration_timeout,
            request_timeout=request_timeout,
            max_unregistered=max_unregistered,
            exit_grace=exit_grace,
        )
        self._settings.check()
        self._metrics = SafeMetrics(metrics)
        # The objects of the present start, under the key "present". dict.setdefault() is atomic, so the main
        # thread can use it; the main thread must not hold a lock, because a signal may interrupt it.
        self._starts: dict[str, _Serving] = {}
        # Held while the key is deleted.
        self._lock = threading.Lock()
        fork.in_child(self._after_fork_in_child)

    # Lifecycle

    def start(self) -> None:
        """Start the plugins of this process and the installed ones, synchronize them, and listen for others.

        Blocks until all of this is done. If an installed plugin fails, a warning is logged, and its process is
        ended.

        Raises:
            StartError: the start failed, and everything was released. ``phase`` and ``__cause__`` have the reason.
            AlreadyStarted: the runtime is started, or is being stopped.
            RuntimeStopped: ``stop()`` was called during the start.
        """
        serving = _Serving(self._settings, self._metrics)
        close = partial(self._stop, serving)
        try:
            if self._starts.setdefault("present", serving) is not serving:
                raise AlreadyStarted(f"the runtime {self._settings.name} is started already")
            call_off_main("nri-start", serving.registry.start)
        except BaseException:
            call_off_main("nri-stop", close, close)
            raise

    def stop(self, grace: float | None = None) -> None:
        """End all requests, connections and launched plugins. Blocks until sockets and processes have ended.

        May be called on any thread, at any time, any number of times, also in a handler or callback. A request
        that is being relayed has ``grace`` seconds to finish. Does not wait for running callbacks and handlers.
        """
        serving = self._serving
        if serving is not None:
            call_off_main("nri-stop", partial(self._stop, serving, grace))

    def _stop(self, serving: _Serving, grace: float | None = None) -> None:
        if grace:
            serving.relay.wait_idle(Deadline(grace))
        serving.registry.close()
        with self._lock:
            if self._serving is serving:
                del self._starts["present"]

    @property
    def _serving(self) -> _Serving | None:
        return self._starts.get("present")

    def _after_fork_in_child(self) -> None:
        # Connections, sockets and launched plugins belong to the parent. Each closes its own descriptors here.
        self._starts = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Runtime:
        self.start()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.stop()

    @property
    def started(self) -> bool:
        """Whether the runtime accepts events."""
        serving = self._serving
        return serving is not None and serving.registry.serving

    @property
    def plugins(self) -> tuple[str, ...]:
        """The full names of the connected and synchronized plugins, in the order in which they get requests."""
        serving = self._serving
        return () if serving is None else tuple(plugin.name for plugin in serving.registry.members)

    def wait_for_plugins(
        self, condition: Callable[[tuple[str, ...]], object], timeout: float | None = None
    ) -> bool:
        """Block until ``condition(runtime.plugins)`` holds.

        Returns False after ``timeout`` seconds, or if the runtime is stopped first.
        """
        serving = self._serving
        return serving is not None and serving.registry.wait_for(condition, Deadline(timeout))

    def block_plugin_sync(self, timeout: float | None = None) -> SyncBlock:
        """Wait for running synchronizations of plugins to end, and hold off further ones.

        Hold the block around each change of pods and containers together with its event. Otherwise a plugin that
        connects at that moment misses the change. The returned block is a context manager; or call its
        ``unblock()``, on any thread, any number of times. Blocks may be nested, and many threads may hold one.

        Raises:
            TimeoutError: plugins were being synchronized for ``timeout`` seconds.
            RuntimeStopped: the runtime is not started, or was stopped during the wait.
            WouldDeadlock: this thread is in the ``synchronize`` callback for a plugin that has connected.
        """
        return self._present("block_plugin_sync").registry.sync_lock.block(timeout)

    def _present(self, operation: str) -> _Serving:
        serving = self._serving
        if serving is None:
            raise RuntimeStopped(f"{operation}: the runtime is not started")
        return serving

    # Events. Each method blocks until the plugins have answered, for at most ``timeout`` seconds.

    def run_pod_sandbox(self, pod: PodSandbox, *, timeout: float | None = None) -> None:
        """Send the start of a pod. Raises as :meth:`create_container`."""
        self._event("RunPodSandbox", timeout, pod=pod)

    def update_pod_sandbox(
        self,
        pod: PodSandbox,
        overhead: LinuxResources | None = None,
        resources: LinuxResources | None = None,
        *,
        timeout: float | None = None,
    ) -> None:
        """Send the new resources of a pod, before the change. Raises as :meth:`create_container`."""
        self._event(
            "UpdatePodSandbox",
            timeout,
            pod=pod,
            overhead_linux_resources=overhead,
            linux_resources=resources,
        )

    def post_update_pod_sandbox(self, pod: PodSandbox, *, timeout: float | None = None) -> None:
        """Send a pod whose resources have been changed. Raises as :meth:`create_container`."""
        self._event("PostUpdatePodSandbox", timeout, pod=pod)

    def stop_pod_sandbox(self, pod: PodSandbox, *, timeout: float | None = None) -> None:
        """Send the stop of a pod. Raises as :meth:`create_container`."""
        self._event("StopPodSandbox", timeout, pod=pod)

    def remove_pod_sandbox(self, pod: PodSandbox, *, timeout: float | None = None) -> None:
        """Send the removal of a pod. Raises as :meth:`create_container`."""
        self._event("RemovePodSandbox", timeout, pod=pod)

    def create_container(
        self, pod: PodSandbox, container: Container, *, timeout: float | None = None
    ) -> CreateContainerResponse:
        """Send a container before its creation; returns the merged adjustment, and updates of other containers.

        Each plugin receives the container with the changes of the plugins before it. Validators receive the merged
        result. The messages that are passed in are never changed, here and in all other methods. Blocks until the
        last plugin has answered. Each plugin has the request timeout, and all plugins together have ``timeout``
        seconds.

        Raises:
            RequestFailed: a plugin answered with an error.
            NoAnswer: a plugin did not answer, and it is a validator or its failure policy fails the request.
            ConflictError: the changes of two plugins conflict.
            ValidationRejected: a validator rejected the result.
            RequestTimeout: ``timeout`` passed.
            RuntimeStopped: the runtime is not started, or was stopped during the request.
            WouldDeadlock: this thread is in the handler of an in-process plugin, and an event waits for the
                handler.
        """
        message = nri_pb2.CreateContainerRequest(pod=pod, container=container)
        relay = self._present("CreateContainer").relay
        return call_off_main("nri-relay", partial(relay.create, message, Deadline(timeout)))

    def post_create_container(
        self, pod: PodSandbox, container: Container, *, timeout: float | None = None
    ) -> None:
        """Send a container that has been created. Raises as :meth:`create_container`."""
        self._event("PostCreateContainer", timeout, pod=pod, container=container)

    def start_container(
        self, pod: PodSandbox, container: Container, *, timeout: float | None = None
    ) -> None:
        """Send the start of a container. Raises as :meth:`create_container`."""
        self._event("StartContainer", timeout, pod=pod, container=container)

    def post_start_container(
        self, pod: PodSandbox, container: Container, *, timeout: float | None = None
    ) -> None:
        """Send a container that has been started. Raises as :meth:`create_container`."""
        self._event("PostStartContainer", timeout, pod=pod, container=container)

    def update_container(
        self,
        pod: PodSandbox,
        container: Container,
        resources: LinuxResources | None = None,
        *,
        timeout: float | None = None,
    ) -> UpdateContainerResponse:
        """Send the new resources of a container, before the change; returns the updates to apply.

        If a plugin has updated this container, the last update of the response is for it, and contains all values
        to set. Otherwise the response has no update for it: apply ``resources`` unchanged. Raises as
        :meth:`create_container`.
        """
        message = nri_pb2.UpdateContainerRequest(
            pod=pod, container=container, linux_resources=resources
        )
        relay = self._present("UpdateContainer").relay
        return call_off_main("nri-relay", partial(relay.update, message, Deadline(timeout)))

    def post_update_container(
        self, pod: PodSandbox, container: Container, *, timeout: float | None = None
    ) -> None:
        """Send a container whose resources have been changed. Raises as :meth:`create_container`."""
        self._event("PostUpdateContainer", timeout, pod=pod, container=container)

    def stop_container(
        self, pod: PodSandbox, container: Container, *, timeout: float | None = None
    ) -> StopContainerResponse:
        """Send the stop of a container; returns the updates to apply. Raises as :meth:`create_container`."""
        message = nri_pb2.StopContainerRequest(pod=pod, container=container)
        relay = self._present("StopContainer").relay
        return call_off_main("nri-relay", partial(relay.stop, message, Deadline(timeout)))

    def remove_container(
        self, pod: PodSandbox, container: Container, *, timeout: float | None = None
    ) -> None:
        """Send the removal of a container. Raises as :meth:`create_container`."""
        self._event("RemoveContainer", timeout, pod=pod, container=container)

    def _event(self, rpc: str, timeout: float | None, **fields: Any) -> None:
        message = getattr(nri_pb2, f"{rpc}Request")(**fields)
        relay = self._present(rpc).relay
        call_off_main("nri-relay", partial(relay.event, rpc, message, Deadline(timeout)))
