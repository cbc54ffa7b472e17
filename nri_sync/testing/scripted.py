"""A runtime that does to plugins what a script says, to test what they do about it."""

from __future__ import annotations

import contextlib
import threading
from typing import Any, Callable, Union

from nri_sync.api import nri_pb2
from nri_sync.errors import ConnectionLost
from nri_sync.net.sockets import ListeningSocket, listen
from nri_sync.testing.common import WITHIN, socket_directory
from nri_sync.testing.remote import RemotePlugin
from nri_sync.testing.stage import Closed, Stage
from nri_sync.testing.steps import Down, Session
from nri_sync.threads import Latch, spawn

__all__ = ["ScriptedRuntime"]

_Item = Union[Session, Callable[[RemotePlugin], object], Down]


class ScriptedRuntime:
    """Listens on a socket, and plays a script: a list of steps for each connection. A context manager.

    ::

        with ScriptedRuntime(
            [steps.register(), steps.cut()],
            steps.down(0.1),
            [steps.welcome(), steps.mark("back"), steps.serve()],
        ) as runtime:
            ...  # a plugin on runtime.socket_path, which comes back whenever it is cut off
            runtime.wait("back")

    The script runs on a thread of its own, one connection after the other; at its end the socket is gone. Methods
    may be called from any thread.
    """

    def __init__(
        self, *script: _Item, socket_path: str | None = None, timeout: float = WITHIN
    ) -> None:
        """Starts nothing.

        Args:
            script: for each connection, a list of :mod:`steps <nri_sync.testing.steps>`, or a single one; between
                them :func:`steps.down`.
            socket_path: where to listen; default is in a new directory with a short path.
            timeout: seconds that a step waits for the plugin, and :meth:`wait` for the script.
        """
        self._script = script
        self._timeout = timeout
        self._given_path = socket_path
        self._path = socket_path or ""
        self._stage = Stage()
        self._resources = contextlib.ExitStack()
        # Set when the script's thread has ended.
        self._ended: Latch | None = None
        # Guards the two that the script waits in: close() wakes it.
        self._lock = threading.Lock()
        self._listener: ListeningSocket | None = None
        self._plugin: RemotePlugin | None = None

    # Lifecycle

    def start(self) -> None:
        """Listen, unless the script begins with a time down, and play it. To be called once.

        Raises OSError if the path cannot be used, NoThread if the system has no more threads.
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
        """End the script, wherever it is, and close everything. Idempotent."""
        self._stage.close()
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
            self._stage.check()

    # For tests

    @property
    def socket_path(self) -> str:
        """Where plugins connect to; there from :meth:`start` on."""
        return self._path

    @property
    def registrations(self) -> list[nri_pb2.RegisterPluginRequest]:
        """What plugins have asked for, each time."""
        return self._stage.registrations

    @property
    def answers(self) -> list[tuple[str, Any]]:
        """What plugins have answered: the RPC, and a message or a ``grpc.RpcError``."""
        return self._stage.answers

    @property
    def updates(self) -> list[nri_pb2.UpdateContainersRequest]:
        """What plugins have asked for by themselves."""
        return self._stage.updates

    @property
    def log(self) -> list[str]:
        """The steps that have been begun, and what was out of the ordinary."""
        return self._stage.log

    def wait(self, mark: str | None = None, timeout: float | None = None) -> None:
        """Block until the script has got to that mark or hold; without one, until its end.

        Raises AssertionError, which tells what has been done, if the script has failed, is over without that mark,
        or takes longer than ``timeout`` seconds.
        """
        self._stage.wait(mark, self._timeout if timeout is None else timeout)

    def release(self, name: str) -> None:
        """Let the hold of that name go on, or a :func:`steps.down` until then; also one that is still to come."""
        self._stage.release(name)

    # The script, on its thread

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
            self._stage.finish(error)

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
        self._stage.note("down")
        self._unlisten()
        if item.until:
            self._stage.hold(item.until)
        else:
            self._stage.pause(item.seconds)
        self._listen()

    def _serve(self, name: str, steps: Session) -> None:
        with self._connection() as plugin:
            for step in steps:
                self._stage.note(f"{name}: {getattr(step, 'text', step)}")
                try:
                    step(plugin)
                except ConnectionLost as lost:
                    if self._stage.closed:
                        raise Closed from None
                    self._stage.note(f"{name}: {lost}")
                    return
                except Exception as error:
                    self._stage.note(f"{name}: {error!r}")
                    raise

    @contextlib.contextmanager
    def _connection(self) -> Any:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except OSError:
            raise Closed from None
        plugin = RemotePlugin(sock, self._stage, self._timeout)
        with self._lock:
            self._plugin = plugin
        try:
            if self._stage.closed:
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
            closed = self._stage.closed
        if closed:
            raise Closed

    def _unlisten(self) -> None:
        with self._lock:
            listener, self._listener = self._listener, None
        if listener is not None:
            listener.remove()
            listener.close()
