"""A runtime that follows a script, to test how plugins react to each of its steps."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import Any, Callable, Union

from nri_sync.api import nri_pb2
from nri_sync.errors import ConnectionLost
from nri_sync.net.sockets import ListeningSocket, listen
from nri_sync.testing.common import WITHIN, socket_directory
from nri_sync.testing.remote import RemotePlugin
from nri_sync.testing.script_state import Closed, ScriptState
from nri_sync.testing.steps import Down, Session
from nri_sync.threads import Latch, spawn

__all__ = ["ScriptedRuntime"]

_Item = Union[Session, Callable[[RemotePlugin], object], Down]


class ScriptedRuntime:
    """Listens on a socket, and executes a script: a list of steps for each connection. A context manager.

    ::

        with ScriptedRuntime(
            [steps.register(), steps.cut()],
            steps.down(0.1),
            [steps.start_session(), steps.mark("back"), steps.serve()],
        ) as runtime:
            ...  # a plugin on runtime.socket_path, which reconnects after each loss
            runtime.wait("back")

    The script runs on a separate thread, one connection after the other. At its end, the socket is removed. Any
    thread may call the methods.
    """

    def __init__(
        self,
        *script: _Item,
        socket_path: str | os.PathLike[str] | None = None,
        timeout: float = WITHIN,
    ) -> None:
        """Starts nothing.

        Args:
            script: for each connection, a list of :mod:`steps <nri_sync.testing.steps>`, or one step; between
                connections, :func:`steps.down`.
            socket_path: the socket for plugins; default is in a new directory with a short path.
            timeout: seconds for which a step waits for the plugin, and :meth:`wait` for the script.
        """
        self._script = script
        self._timeout = timeout
        self._path = os.fspath(socket_path or "")
        self._state = ScriptState()
        self._resources = contextlib.ExitStack()
        # Set when the thread of the script has ended.
        self._ended: Latch | None = None
        # Guards the listener and the plugin, in which the script waits: close() interrupts both.
        self._lock = threading.Lock()
        self._listener: ListeningSocket | None = None
        self._plugin: RemotePlugin | None = None

    # Lifecycle

    def start(self) -> None:
        """Listen, unless the script begins with :func:`steps.down`, and start the script. Call it once.

        Raises OSError if the path is unusable, NoThread if the system has no more threads.
        """
        if not self._path:
            self._path = self._resources.enter_context(socket_directory()) + "/nri.sock"
        try:
            if not isinstance(next(iter(self._script), None), Down):
                self._listen()
        except BaseException:
            self._resources.close()
            raise
        try:
            self._ended = spawn("nri-script", self._run)
        except BaseException:
            self._unlisten()
            self._resources.close()
            raise

    def close(self) -> None:
        """End the script at its current step, and close the connection and the socket. Idempotent."""
        self._state.close()
        with self._lock:
            listener, plugin = self._listener, self._plugin
        if listener is not None:
            listener.stop()
        if plugin is not None:
            plugin.interrupt()
        if self._ended is not None:
            self._ended.wait()
        self._resources.close()

    def __enter__(self) -> ScriptedRuntime:
        self.start()
        return self

    def __exit__(self, kind: object, *_exc_info: object) -> None:
        """Close; raise AssertionError if the script has failed."""
        self.close()
        if kind is None:
            self._state.check()

    # For tests

    @property
    def socket_path(self) -> str:
        """The socket for plugins; it exists after :meth:`start`."""
        return self._path

    @property
    def registrations(self) -> list[nri_pb2.RegisterPluginRequest]:
        """The RegisterPlugin requests of plugins, in order."""
        return self._state.registrations

    @property
    def answers(self) -> list[tuple[str, Any]]:
        """The answers of plugins in order, each with its RPC. An answer is a message or a ``CallFailed``."""
        return self._state.answers

    @property
    def updates(self) -> list[nri_pb2.UpdateContainersRequest]:
        """The UpdateContainers requests of plugins, in order."""
        return self._state.updates

    @property
    def log(self) -> list[str]:
        """The steps that have begun, and the unexpected events."""
        return self._state.log

    def wait(self, mark: str | None = None, timeout: float | None = None) -> None:
        """Block until the script has reached that mark or hold; without one, until its end.

        Raises AssertionError, with the log, if the script has failed, has ended without that mark, or takes longer
        than ``timeout`` seconds.
        """
        self._state.wait(mark, self._timeout if timeout is None else timeout)

    def release(self, name: str) -> None:
        """Continue the hold or :func:`steps.down` of that name, even if the script has not reached it yet."""
        self._state.release(name)

    # The script, on its own thread

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            self._play()
        except Closed:
            pass
        except Exception as caught:
            error = caught
        finally:
            self._unlisten()
            self._state.finish(error)

    def _play(self) -> None:
        number = 0
        for item in self._script:
            if isinstance(item, Down):
                self._down(item)
            else:
                number += 1
                steps = [item] if callable(item) else item
                self._serve(f"connection {number}", steps)

    def _down(self, item: Down) -> None:
        self._state.note("down")
        self._unlisten()
        if item.until:
            self._state.hold(item.until)
        else:
            self._state.pause(item.seconds)
        self._listen()

    def _serve(self, name: str, steps: Session) -> None:
        with self._connection() as plugin:
            for step in steps:
                self._state.note(f"{name}: {getattr(step, 'text', step)}")
                try:
                    step(plugin)
                except ConnectionLost as lost:
                    if self._state.closed:
                        raise Closed from None
                    self._state.note(f"{name}: {lost}")
                    return
                except Exception as error:
                    self._state.note(f"{name}: {error!r}")
                    raise

    @contextlib.contextmanager
    def _connection(self) -> Any:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except OSError:
            raise Closed from None
        plugin = RemotePlugin(sock, self._state, self._timeout)
        with self._lock:
            self._plugin = plugin
        try:
            if self._state.closed:
                raise Closed
            yield plugin
        finally:
            with self._lock:
                self._plugin = None
            plugin.close()

    def _listen(self) -> None:
        listener = listen(self._path)
        with self._lock:
            self._listener = listener
            closed = self._state.closed
        if closed:
            raise Closed

    def _unlisten(self) -> None:
        with self._lock:
            listener, self._listener = self._listener, None
        if listener is not None:
            listener.remove()
            listener.close()
