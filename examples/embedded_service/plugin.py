"""A service with its own threads that is also a plugin: it keeps memory limits for namespaces, over HTTP.

The service has its own server, threads, signals and end, and times when the runtime must not call it. So it uses
the
stub directly: it starts and stops the stub, and decides in ``on_close`` when to reconnect.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import nri_sync
from nri_sync import api, errors, kit

__all__ = ["LimitService", "main"]

logger = logging.getLogger("limits")


class LimitService(nri_sync.Plugin):
    """Limits the memory of containers by namespace. Any thread may call any method.

    Call ``serve`` to begin, and ``close`` to end.
    """

    def __init__(self, host: str, port: int, *, retry: float = 1.0, **options: Any) -> None:
        """``retry`` is in seconds; ``options`` are those of the stub."""
        self._inventory = kit.Inventory()
        self.stub = nri_sync.Stub(
            kit.chain(self._inventory, self),
            **{"name": "limits", "idx": "50", "on_close": self._on_close, **options},
        )
        self._retry = retry
        self._lock = threading.Lock()
        self._limits: dict[str, int] = {}
        # Set while the runtime must not call.
        self._paused = threading.Event()
        self._paused.set()
        # One thread connects at a time.
        self._connecting = threading.Lock()

        class Handler(_Handler):
            service = self

        self._server = ThreadingHTTPServer((host, port), Handler)
        self.address = "{}:{}".format(*self._server.server_address)
        self._thread = threading.Thread(target=self._server.serve_forever)

    def serve(self) -> None:
        """Begin, also if there is no runtime yet."""
        self._thread.start()
        self.resume()

    def close(self) -> None:
        """End. Blocks until all threads have ended."""
        self.pause()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        with self._connecting:
            pass  # the last attempt has ended

    # The connection

    def pause(self) -> None:
        """Disconnect: the runtime creates containers without the service, until ``resume``."""
        self._paused.set()
        self.stub.stop(grace=1.0)

    def resume(self) -> None:
        """Connect, and stay connected. Returns at once."""
        self._paused.clear()
        threading.Thread(target=self._connect, daemon=True).start()

    def _on_close(self, stub: nri_sync.Stub) -> None:
        """Called on its own thread after each loss of the connection; not after ``stop``."""
        logger.warning("%s", stub.close_reason)
        self._connect()

    def _connect(self) -> None:
        with self._connecting:
            while not self._paused.is_set() and not self.stub.started:
                try:
                    self.stub.start()
                except (errors.StartError, errors.LifecycleError) as error:
                    logger.warning("%s", error)
                    self._paused.wait(self._retry)
        if self._paused.is_set():
            # pause() came between two attempts, where stop() has no effect.
            self.stub.stop()

    # The plugin

    def synchronize(
        self, pods: list[api.PodSandbox], containers: list[api.Container]
    ) -> list[api.Update]:
        """Return updates for the limits that were set while the service was not connected."""
        with self._lock:
            limits = dict(self._limits)
        return self._updates(limits)

    def create_container(
        self, pod: api.PodSandbox, container: api.Container
    ) -> api.Adjustment | None:
        with self._lock:
            limit = self._limits.get(pod.namespace)
        return None if limit is None else api.Adjustment().set_memory(limit=limit)

    def _updates(self, limits: dict[str, int]) -> list[api.Update]:
        now = self._inventory.snapshot()
        return [
            api.Update(container.id, ignore_failure=True).set_memory(limit=limits[pod.namespace])
            for container in now.containers.values()
            for pod in [now.pod_of(container)]
            if pod is not None and pod.namespace in limits and not container.stopped
        ]

    # The service

    def set_limit(self, namespace: str, limit: int) -> dict[str, Any]:
        """Limit new containers and running ones. Called on threads of the HTTP server."""
        with self._lock:
            self._limits[namespace] = limit
        try:
            failed = self.stub.update_containers(self._updates({namespace: limit}))
        except (errors.NotConnected, errors.CallFailed) as error:
            # The next Synchronize returns the update.
            return {"applied": False, "reason": str(error)}
        return {"applied": True, "failed": [update.container_id for update in failed]}

    def status(self) -> dict[str, Any]:
        with self._lock:
            limits = dict(self._limits)
        containers = len(self._inventory.snapshot().containers)
        return {"connected": self.stub.started, "limits": limits, "containers": containers}


class _Handler(BaseHTTPRequestHandler):
    service: LimitService

    def do_GET(self) -> None:
        self._answer(self.service.status())

    def do_PUT(self) -> None:
        """``PUT /NAMESPACE`` with an amount such as "512Mi"."""
        body = self.rfile.read(int(self.headers["Content-Length"] or 0)).decode()
        try:
            limit = int(kit.Quantity.parse(body.strip()))
        except ValueError as error:
            self._answer({"error": str(error)}, HTTPStatus.BAD_REQUEST)
        else:
            self._answer(self.service.set_limit(self.path.strip("/"), limit))

    def do_POST(self) -> None:
        actions = {"/pause": self.service.pause, "/resume": self.service.resume}
        if self.path in actions:
            actions[self.path]()
            self._answer(self.service.status())
        else:
            self._answer({"error": f"one of {', '.join(actions)}"}, HTTPStatus.NOT_FOUND)

    def _answer(self, value: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        body = json.dumps(value).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug(format, *args)


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--listen", default="127.0.0.1:8764", metavar="HOST:PORT")
    parser.add_argument("--socket", help="the runtime's socket; default is /var/run/nri/nri.sock")
    parsed = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    host, _, port = parsed.listen.rpartition(":")
    service = LimitService(host, int(port), socket_path=parsed.socket)
    service.serve()
    signal.sigwait(ends)
    service.close()


if __name__ == "__main__":
    main()
