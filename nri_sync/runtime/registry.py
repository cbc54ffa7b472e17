"""All plugins of a runtime, from connecting to disconnecting. One registry lasts from start() to stop()."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterable
from functools import partial
from typing import Any, Callable, Union

from nri_sync.api import PluginId, nri_pb2
from nri_sync.deadline import Deadline
from nri_sync.errors import CallFailed, NoThread, NRIError, RuntimeStopped, StartError
from nri_sync.logger import get_logger
from nri_sync.runtime.concurrent import run_concurrently
from nri_sync.runtime.inprocess import InProcess
from nri_sync.runtime.launcher import Installed, Process, discover, launch
from nri_sync.runtime.listener import Listener
from nri_sync.runtime.member import failure
from nri_sync.runtime.metrics import SafeMetrics
from nri_sync.runtime.peer import Peer
from nri_sync.runtime.pending import PendingConnections
from nri_sync.runtime.settings import Settings
from nri_sync.runtime.sync_lock import SyncLock
from nri_sync.threads import Latch, signal_safe, spawn

__all__ = ["Plugin", "PluginRegistry"]

logger = get_logger("nri_sync.runtime")

Plugin = Union[Peer, InProcess]

# Seconds that close() waits for connections that do not close promptly.
_CLOSE_WITHIN = 5.0


class PluginRegistry:
    """The plugins of a runtime. Thread-safe."""

    def __init__(self, settings: Settings, metrics: SafeMetrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self.sync_lock = SyncLock()
        self._pending = PendingConnections(settings.max_unregistered)
        #: The synchronized plugins, in the order in which they get requests. The tuple is replaced as a whole.
        self.members: tuple[Plugin, ...] = ()
        #: True from the end of start() to the beginning of close().
        self.serving = False
        # Set, and replaced by a new latch, when the members are replaced.
        self._replaced = Latch()
        # Guards the attributes above and below. _changed is notified when a process has ended.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._peers: set[Peer] = set()
        self._in_process: list[InProcess] = []
        # The processes of launched plugins whose connections are open.
        self._processes: dict[Peer, Process] = {}
        # The processes of launched plugins that have not been reaped.
        self._running: set[Process] = set()
        self._listener: Listener | None = None
        self._closing = False
        self._closed = Latch()

    # Starting

    def start(self) -> None:
        """Start the plugins of this process and the installed ones, synchronize them, and listen for others.

        Raises:
            StartError: the start failed. Call close() then.
            RuntimeStopped: close() was called during the start.
        """
        self._check()
        settings = self._settings
        path = settings.plugin_path
        installed = [] if path is None else discover(path, settings.plugin_config_path)
        ready: list[Plugin] = [self._start_in_process(*item) for item in settings.plugins.items()]
        launched = run_concurrently(
            "nri-launch", [partial(self._launch, item) for item in installed]
        )
        ready += [peer for peer in launched if peer is not None]
        self._check()
        for plugin in self._synchronize_all(ready):
            self._add(plugin)
        with self._changed:
            # After close() has begun, another process may own the socket path.
            self._check()
            if settings.socket_path is not None:
                self._listener = Listener(settings.socket_path, self._on_connect)
            self.serving = True

    def _check(self) -> None:
        if self._closing:
            raise RuntimeStopped("the runtime was stopped meanwhile")

    def _start_in_process(self, name: str, plugin: object) -> InProcess:
        made = InProcess(name, plugin)
        try:
            made.configure(self._settings.configuration(), self._settings.request_timeout)
        except Exception as error:
            text = f"failed to start the in-process plugin {name}: {error}"
            raise StartError(text, phase="plugins") from error
        with self._changed:
            self._in_process.append(made)
            closing = self._closing
        if closing:  # close() ran before the plugin was in the list
            made.close()
        return made

    def _launch(self, plugin: Installed) -> Peer | None:
        """Launch and configure a plugin; returns None, and logs a warning, if that fails."""
        try:
            process, sock = launch(plugin, grace=self._settings.exit_grace)
        except (OSError, RuntimeError) as error:
            logger.warning("cannot launch plugin %s: %s", plugin.name, error)
            return None
        with self._changed:
            self._running.add(process)
        try:
            peer = self._connect(sock, process=process, identity=plugin.identity)
        except (OSError, RuntimeError) as error:
            logger.warning("cannot connect plugin %s: %s", plugin.name, error)
            self._end_process(process)
            return None
        return peer if self._register(peer, plugin.config) else None

    def _synchronize_all(self, ready: list[Plugin]) -> list[Plugin]:
        """Call the runtime's ``synchronize`` for the plugins of the start; returns the plugins that succeeded."""
        failed: list[Plugin] = []

        def sync_one(plugin: Plugin, pods: Any, containers: Any) -> list[nri_pb2.ContainerUpdate]:
            try:
                return self._synchronize(plugin, pods, containers)
            except Exception as error:
                logger.warning("%s", error)
                failed.append(plugin)
                return []

        def sync(pods: Any, containers: Any) -> list[nri_pb2.ContainerUpdate]:
            calls = [partial(sync_one, plugin, pods, containers) for plugin in ready]
            return [
                update
                for updates in run_concurrently("nri-synchronize", calls)
                for update in updates
            ]

        try:
            self._settings.run_synchronize(sync, "the plugins of the start")
        except Exception as error:
            text = f"failed to synchronize the plugins of the start: {error}"
            raise StartError(text, phase="synchronize") from error
        return [plugin for plugin in ready if plugin not in failed]

    # Plugins that connect

    def _on_connect(self, sock: socket.socket) -> None:
        """Serve a new connection."""
        try:
            peer = self._connect(sock)
        except (OSError, RuntimeError, MemoryError) as error:
            logger.warning("cannot serve a connection: %s", error)
            return
        try:
            spawn(f"nri-register-{peer.pid}", self._admit, peer)
        except NoThread as error:
            logger.warning("cannot serve a connection: %s", error)
            peer.close()

    def _connect(
        self,
        sock: socket.socket,
        *,
        process: Process | None = None,
        identity: PluginId | None = None,
    ) -> Peer:
        peer = Peer(
            sock,
            identity=identity,
            pid=None if process is None else process.pid,
            update_containers=self._settings.update_containers,
            on_close=self._on_disconnect,
            older=self._settings.older,
            on_ignored=lambda peer, rpc, fields: self._metrics.ignored(peer.name, rpc, fields),
        )
        if process is None:
            self._pending.add(peer)
        with self._changed:
            self._peers.add(peer)
            if process is not None:
                self._processes[peer] = process
            closing = self._closing
        if closing:
            peer.close()
        if peer.disconnected:
            # It may have disconnected before it was in _peers: then _on_disconnect() has done nothing yet.
            self._on_disconnect(peer, None)
        return peer

    def _admit(self, peer: Peer) -> None:
        """Register, configure and synchronize a plugin that has connected. Runs on a new thread."""
        if not self._register(peer, ""):
            return
        try:
            with self.sync_lock:
                self._check()
                self._settings.run_synchronize(
                    partial(self._synchronize, peer), f"plugin {peer.name}"
                )
                self._add(peer)
        except Exception as error:
            self._refuse(peer, "synchronize", error)

    def _register(self, peer: Peer, config: str) -> bool:
        """Wait for the registration of a plugin, and configure it. If that fails, close it and return False."""
        settings = self._settings
        try:
            try:
                peer.wait_registered(settings.registration_timeout)
            finally:
                self._pending.discard(peer)
            peer.configure(settings.configuration(config), settings.request_timeout)
        except Exception as error:
            self._refuse(peer, "register", error)
            return False
        release = peer.nri_version or "of an unknown release"
        logger.info(
            "plugin %s registered (NRI %s), subscribed to %s", peer.name, release, peer.events
        )
        return True

    def _refuse(self, peer: Peer, step: str, error: Exception) -> None:
        if not self._closing:
            expected = isinstance(error, (NRIError, TimeoutError))
            trace = None if expected else error
            logger.warning("failed to %s plugin %s: %s", step, peer.name, error, exc_info=trace)
        answered = isinstance(error, CallFailed)
        peer.close(error if isinstance(error, NRIError) and not answered else None)

    def _synchronize(
        self, plugin: Plugin, pods: Any, containers: Any
    ) -> list[nri_pb2.ContainerUpdate]:
        """Send the state to one plugin; returns its updates. If it fails, close it and raise RequestFailed."""
        began = time.perf_counter()
        error: Exception | None = None
        updates: list[nri_pb2.ContainerUpdate] = []
        try:
            updates = plugin.synchronize(pods, containers, self._settings.request_timeout)
        except Exception as caught:
            error = caught
        self._metrics.latency(plugin.name, "Synchronize", time.perf_counter() - began)
        self._metrics.invocation(plugin.name, "Synchronize", error)
        if error is not None:
            failed = failure(plugin.name, "Synchronize", error)
            plugin.close(failed)
            raise failed
        self._metrics.adjustments(plugin.name, "Synchronize", None, len(updates), 0)
        return updates

    # Members

    @property
    @signal_safe
    def peers(self) -> frozenset[Peer]:
        """All connections, including unregistered ones, and ended ones until their cleanup."""
        with self._changed:
            return frozenset(self._peers)

    def _add(self, plugin: Plugin) -> None:
        with self._changed:
            if self._closing or plugin.closed:
                return
            # The sort is stable: of plugins with the same index, the first to connect comes first.
            members = sorted((*self.members, plugin), key=lambda member: member.idx)
            count = self._replace_locked(members)
        logger.info("plugin %s connected and synchronized", plugin.name)
        self._metrics.count(count)

    def _on_disconnect(self, peer: Peer, cause: NRIError | None) -> None:
        """Remove a plugin whose connection has ended, and end its process."""
        self._pending.discard(peer)
        with self._changed:
            if peer not in self._peers:
                return
            self._peers.remove(peer)
            process = self._processes.pop(peer, None)
            was_member = peer in self.members
            if was_member:
                count = self._replace_locked(member for member in self.members if member != peer)
        if was_member:
            logger.info("connection to plugin %s closed: %s", peer.name, cause or "by this side")
            self._metrics.count(count)
        if process is not None:
            self._end_process(process)

    def _end_process(self, process: Process) -> None:
        process.end()
        with self._changed:
            self._running.discard(process)
            self._changed.notify_all()

    def wait_for(self, condition: Callable[[tuple[str, ...]], object], deadline: Deadline) -> bool:
        """Block until ``condition`` holds for the full names of the members.

        Returns False if the deadline passes or the registry is closed first.
        """
        while True:
            # Read the latch before the members: a later replacement of the members sets this latch.
            replaced = self._replaced
            if condition(tuple(member.name for member in self.members)):
                return True
            if self._closing or not replaced.wait(deadline):
                return False

    def _replace_locked(self, members: Iterable[Plugin]) -> int:
        """Replace the tuple of members; returns its length."""
        assert self._lock.locked()
        self.members = tuple(members)
        replaced, self._replaced = self._replaced, Latch()
        replaced.set()
        return len(self.members)

    # Ending

    def close(self) -> None:
        """End the listener, all connections and all processes. Blocks until they have ended. Idempotent."""
        with self._changed:
            first, self._closing = not self._closing, True
            self.serving = False
            members = self.members
            self._replace_locked(())
            peers, in_process = list(self._peers), list(self._in_process)
            listener = self._listener
        if first:
            try:
                self._close(listener, peers, in_process)
                if members:
                    self._metrics.count(0)
            finally:
                self._closed.set()
        else:
            self._closed.wait()
        with self._changed:
            while self._running:
                self._changed.wait()

    def _close(
        self, listener: Listener | None, peers: list[Peer], in_process: list[InProcess]
    ) -> None:
        if listener is not None:
            listener.close()
        self.sync_lock.close()
        for peer in peers:
            peer.close()
        for plugin in in_process:
            plugin.close()
        deadline = Deadline(_CLOSE_WITHIN)
        if listener is not None:
            listener.wait_closed(deadline.remaining())
        for peer in peers:
            peer.wait_closed(deadline.remaining())
