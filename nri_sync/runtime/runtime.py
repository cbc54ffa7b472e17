"""The runtime side of NRI: plugins come, and are asked about what happens to pods and containers."""

from __future__ import annotations

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

#: Where the reference looks for plugins to launch, and for their configuration.
DEFAULT_PLUGIN_PATH = "/opt/nri/plugins"
DEFAULT_CONFIG_PATH = "/etc/nri/conf.d"


class _Serving:
    """What there is from start() to stop()."""

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

    Plugins connect to a socket, are launched, or are objects of this process. Tell the runtime of each event,
    with the method of its name: it asks all plugins that are subscribed to it, one after the other by their
    index, and returns what they want. One event is relayed at a time; others wait.

    What is called on the main thread works on another one, so that an interrupt leaves no lock held: start() is
    undone then, and everything else goes on to its end, without its caller.

    May be started again after :meth:`stop`. As a context manager: :meth:`start` ... :meth:`stop`.
    """

    def __init__(
        self,
        name: str,
        version: str,
        *,
        synchronize: Synchronize,
        update_containers: UpdateContainers,
        socket_path: str | None = api.DEFAULT_SOCKET_PATH,
        plugin_path: str | None = DEFAULT_PLUGIN_PATH,
        plugin_config_path: str = DEFAULT_CONFIG_PATH,
        plugins: Mapping[str, object] | None = None,
        default_validator: object | None = None,
        registration_timeout: float = api.DEFAULT_REGISTRATION_TIMEOUT,
        request_timeout: float = api.DEFAULT_REQUEST_TIMEOUT,
        metrics: Metrics | None = None,
        nri_version: str = api.NRI_VERSION,
        max_unregistered: int = 64,
        exit_grace: float = 2.0,
    ) -> None:
        """Check what can be checked; start nothing.

        Args:
            name: the name of the container runtime, as plugins are told it.
            version: its release.
            synchronize: called once for the plugins of the start, and once for each that connects later, with a
                function; it is to call that once, with all pods and containers that exist, and to apply the
                updates it returns. What either raises is logged, and the plugin is closed. Several threads may
                call it at once. No event may be told of meanwhile: see :meth:`block_plugin_sync`.
            update_containers: called with the updates and evictions that a plugin asks for by itself; returns the
                updates that failed. Called by several threads at once, also while an event is relayed.
            socket_path: where to listen for plugins; None for no such plugins.
            plugin_path: the directory with plugins to launch; None for no such plugins.
            plugin_config_path: the directory with their configuration.
            plugins: objects with handlers, by full name ``NN-name``: plugins in this process. Handlers are called
                by the thread that relays, which is never the main one, without a time limit.
            default_validator: a further one of them, the first, called ``00-default-validator``: see
                :class:`DefaultValidator`.
            registration_timeout: seconds that a plugin has to register.
            request_timeout: seconds that it has to answer a request, all of its synchronization included.
            metrics: receives figures of each call, see :class:`Metrics`.
            nri_version: the NRI release that plugins are told. With one that is older than this package's, the
                plugins that connect, or are launched, meet a runtime of that release: most events are a
                StateChange before v0.12, events and fields that it does not know are neither sent nor seen.
            max_unregistered: connections that may be waiting for their registration; of more, the oldest is
                closed.
            exit_grace: seconds that a launched plugin has to end when its connection is closed, and again when
                it has been sent SIGTERM.

        Raises:
            TypeError, ValueError: an argument is of a wrong type or value.
            PluginError: one of ``plugins`` has no handlers, or wrong ones.
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
            socket_path=socket_path,
            plugin_path=plugin_path,
            plugin_config_path=plugin_config_path,
            plugins=in_process,
            registration_timeout=registration_timeout,
            request_timeout=request_timeout,
            max_unregistered=max_unregistered,
            exit_grace=exit_grace,
        )
        self._settings.check()
        self._metrics = SafeMetrics(metrics)
        # What there is of the present start, if any. A dict for its setdefault(), which is a single step: the
        # main thread, which a signal may interrupt, can do that, but must not hold a lock.
        self._starts: dict[str, _Serving] = {}
        # Held where it is cleared.
        self._lock = threading.Lock()
        fork.in_child(self._after_fork_in_child)

    # Lifecycle

    def start(self) -> None:
        """Start the plugins of this process and the installed ones, synchronize them, and listen for others.

        Blocks until that is done. An installed plugin that fails is logged, and ended.

        Raises:
            StartError: it failed, and everything was released; ``phase`` and ``__cause__`` tell why.
            AlreadyStarted: it is started, or being stopped.
            RuntimeStopped: ``stop()`` was called meanwhile.
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
        """End everything: requests, connections, launched plugins. Blocks until sockets and processes are gone.

        Any thread, any time, any number of times, also in a handler or callback. A request that is being relayed
        has ``grace`` seconds to get through. Does not wait for callbacks and handlers that are still running.
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
        # Connections, sockets and launched plugins are the parent's; each lets go of its own descriptors.
        self._starts = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Runtime:
        self.start()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.stop()

    @property
    def started(self) -> bool:
        """Whether events can be told of."""
        serving = self._serving
        return serving is not None and serving.registry.serving

    @property
    def plugins(self) -> tuple[str, ...]:
        """The full names of the plugins that are connected and synchronized, in the order they are asked in."""
        serving = self._serving
        return () if serving is None else tuple(plugin.name for plugin in serving.registry.members)

    def wait_for_plugins(
        self, condition: Callable[[tuple[str, ...]], object], timeout: float | None = None
    ) -> bool:
        """Block until ``condition(runtime.plugins)`` holds.

        Returns False when it does not within ``timeout`` seconds, or the runtime is stopped.
        """
        serving = self._serving
        return serving is not None and serving.registry.wait_for(condition, Deadline(timeout))

    def block_plugin_sync(self, timeout: float | None = None) -> SyncBlock:
        """Hold off the synchronization of further plugins; wait for one that goes on.

        To be held around whatever changes pods and containers, with the event that tells of it: otherwise a
        plugin that comes at that moment misses it. A context manager; or call ``unblock()`` of what is returned,
        from any thread, any number of times. Blocks may be nested; many threads may hold one.

        Raises:
            TimeoutError: plugins were being synchronized for ``timeout`` seconds.
            RuntimeStopped: the runtime is not started, or was stopped meanwhile.
            WouldDeadlock: this thread is in the ``synchronize`` callback, for a plugin that has connected.
        """
        return self._present("block_plugin_sync").registry.sync_lock.block(timeout)

    def _present(self, what: str) -> _Serving:
        serving = self._serving
        if serving is None:
            raise RuntimeStopped(f"{what}: the runtime is not started")
        return serving

    # Events. All block until the plugins have answered, for ``timeout`` seconds at most.

    def run_pod_sandbox(self, pod: PodSandbox, *, timeout: float | None = None) -> None:
        """Tell of a pod that is being started. Raises as :meth:`create_container`."""
        self._event("RunPodSandbox", timeout, pod=pod)

    def update_pod_sandbox(
        self,
        pod: PodSandbox,
        overhead: LinuxResources | None = None,
        resources: LinuxResources | None = None,
        *,
        timeout: float | None = None,
    ) -> None:
        """Tell of a pod whose resources are being changed. Raises as :meth:`create_container`."""
        self._event(
            "UpdatePodSandbox",
            timeout,
            pod=pod,
            overhead_linux_resources=overhead,
            linux_resources=resources,
        )

    def post_update_pod_sandbox(self, pod: PodSandbox, *, timeout: float | None = None) -> None:
        """Tell of a pod whose resources have been changed. Raises as :meth:`create_container`."""
        self._event("PostUpdatePodSandbox", timeout, pod=pod)

    def stop_pod_sandbox(self, pod: PodSandbox, *, timeout: float | None = None) -> None:
        """Tell of a pod that is being stopped. Raises as :meth:`create_container`."""
        self._event("StopPodSandbox", timeout, pod=pod)

    def remove_pod_sandbox(self, pod: PodSandbox, *, timeout: float | None = None) -> None:
        """Tell of a pod that is being removed. Raises as :meth:`create_container`."""
        self._event("RemovePodSandbox", timeout, pod=pod)

    def create_container(
        self, pod: PodSandbox, container: Container, *, timeout: float | None = None
    ) -> CreateContainerResponse:
        """Tell of a container that is being created; returns how to adjust it, and what else to update.

        Each plugin sees what those before it have changed; validators see the result. Messages that are passed in
        are never changed, here and in all other methods. Blocks until the last plugin has answered; each has the
        request timeout, and all together ``timeout`` seconds.

        Raises:
            RequestFailed: a plugin answered with an error.
            NoAnswer: a plugin did not answer, and its failure policy, or that it validates, makes that an error.
            ConflictError: two plugins want different things.
            ValidationRejected: a validator rejected the result.
            RequestTimeout: ``timeout`` passed.
            RuntimeStopped: the runtime is not started, or was stopped meanwhile.
            WouldDeadlock: this thread is in the handler of an in-process plugin, which an event waits for.
        """
        message = nri_pb2.CreateContainerRequest(pod=pod, container=container)
        relay = self._present("CreateContainer").relay
        return call_off_main("nri-relay", partial(relay.create, message, Deadline(timeout)))

    def post_create_container(
        self, pod: PodSandbox, container: Container, *, timeout: float | None = None
    ) -> None:
        """Tell of a container that has been created. Raises as :meth:`create_container`."""
        self._event("PostCreateContainer", timeout, pod=pod, container=container)

    def start_container(
        self, pod: PodSandbox, container: Container, *, timeout: float | None = None
    ) -> None:
        """Tell of a container that is being started. Raises as :meth:`create_container`."""
        self._event("StartContainer", timeout, pod=pod, container=container)

    def post_start_container(
        self, pod: PodSandbox, container: Container, *, timeout: float | None = None
    ) -> None:
        """Tell of a container that has been started. Raises as :meth:`create_container`."""
        self._event("PostStartContainer", timeout, pod=pod, container=container)

    def update_container(
        self,
        pod: PodSandbox,
        container: Container,
        resources: LinuxResources | None = None,
        *,
        timeout: float | None = None,
    ) -> UpdateContainerResponse:
        """Tell of a container whose resources are being changed; returns what to update.

        If any plugin has updated this container, the last update is its, with everything to be set; otherwise it
        is not there, and ``resources`` stand as they are. Raises as :meth:`create_container`.
        """
        message = nri_pb2.UpdateContainerRequest(
            pod=pod, container=container, linux_resources=resources
        )
        relay = self._present("UpdateContainer").relay
        return call_off_main("nri-relay", partial(relay.update, message, Deadline(timeout)))

    def post_update_container(
        self, pod: PodSandbox, container: Container, *, timeout: float | None = None
    ) -> None:
        """Tell of a container whose resources have been changed. Raises as :meth:`create_container`."""
        self._event("PostUpdateContainer", timeout, pod=pod, container=container)

    def stop_container(
        self, pod: PodSandbox, container: Container, *, timeout: float | None = None
    ) -> StopContainerResponse:
        """Tell of a container that is being stopped; returns what to update.

        Raises as :meth:`create_container`.
        """
        message = nri_pb2.StopContainerRequest(pod=pod, container=container)
        relay = self._present("StopContainer").relay
        return call_off_main("nri-relay", partial(relay.stop, message, Deadline(timeout)))

    def remove_container(
        self, pod: PodSandbox, container: Container, *, timeout: float | None = None
    ) -> None:
        """Tell of a container that is being removed. Raises as :meth:`create_container`."""
        self._event("RemoveContainer", timeout, pod=pod, container=container)

    def _event(self, rpc: str, timeout: float | None, **fields: Any) -> None:
        message = getattr(nri_pb2, f"{rpc}Request")(**fields)
        relay = self._present(rpc).relay
        call_off_main("nri-relay", partial(relay.event, rpc, message, Deadline(timeout)))
