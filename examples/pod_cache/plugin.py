"""Finds the pod of an address, a process or a cgroup on the node, and serves it over HTTP. Needs no API server.

``kit.Inventory`` keeps the pods and containers. This module serves the requests.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from nri_sync import kit

__all__ = ["PodCache", "main"]

logger = logging.getLogger("pod-cache")


class PodCache(kit.Inventory):
    """An inventory with a server. It is a plugin object.

    Paths: ``/ip/ADDRESS``, ``/pid/NUMBER``, ``/cgroup/PATH``, ``/pod/NAMESPACE/NAME`` and ``/pods``. The response
    is JSON, with status 404 if there is no such pod.
    """

    def __init__(self, host: str, port: int, store: kit.InventoryStore | None = None) -> None:
        super().__init__(self._log, store=store)
        self._store_to_close = store

        class Handler(_Handler):
            cache = self

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self.address = "{}:{}".format(*self._server.server_address)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def on_stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        if self._store_to_close is not None:
            self._store_to_close.close()

    def answer(self, path: str) -> Any:
        """Return the pods for a path of the server; None if there are none. Raises ValueError for a wrong path."""
        now = self.snapshot()
        kind, _, rest = unquote(path).strip("/").partition("/")
        if kind == "pods":
            return [described(pod, now.containers_of(pod.id)) for pod in now.pods.values()]
        container = None
        if kind == "pid":
            container = now.container_by_pid(int(rest))
            kind, rest = "cgroup", "" if container else cgroup_of(int(rest))
        if kind == "cgroup":
            container = container or now.container_by_cgroup(f"/{rest}")
            pod = now.pod_of(container) if container else now.pod_by_cgroup(f"/{rest}")
        elif kind == "ip":
            pod = now.pod_by_ip(rest)
        elif kind == "pod":
            pod = now.pod_by_name(*rest.split("/", 1))
        else:
            raise ValueError("ask for /ip, /pid, /cgroup, /pod or /pods")
        return pod and described(pod, [container] if container else now.containers_of(pod.id))

    def _log(self, changes: kit.Changes) -> None:
        for pod in changes.pods.appeared:
            logger.info("%s/%s appeared, with %s", pod.namespace, pod.name, ", ".join(pod.ips))
        for pod in changes.pods.vanished:
            logger.info("%s/%s is gone, with %s", pod.namespace, pod.name, ", ".join(pod.ips))


class _Handler(BaseHTTPRequestHandler):
    cache: PodCache

    def do_GET(self) -> None:
        try:
            found = self.cache.answer(self.path)
            status = HTTPStatus.OK if found is not None else HTTPStatus.NOT_FOUND
        except (ValueError, TypeError, OSError) as error:
            found, status = {"error": str(error)}, HTTPStatus.BAD_REQUEST
        body = json.dumps(found, indent=2).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        # True after the loss of a session, until the next Synchronize.
        self.send_header("X-Stale", str(self.cache.snapshot().stale).lower())
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug(format, *args)


def described(pod: kit.PodRecord, containers: list[kit.ContainerRecord]) -> dict[str, Any]:
    return {
        "namespace": pod.namespace,
        "name": pod.name,
        "uid": pod.uid,
        "ips": list(pod.ips),
        "labels": dict(pod.message.labels),
        "containers": {
            item.name: {"id": item.id, "pid": item.pid, "stopped": item.stopped}
            for item in containers
        },
    }


def cgroup_of(pid: int) -> str:
    """Return the cgroup of a process that is not a container's first one. Needs the host's PID namespace."""
    return kit.process_cgroup(pid).lstrip("/")


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--listen", default="127.0.0.1:8765", metavar="HOST:PORT")
    parser.add_argument("--store", type=Path, help="a database for restarts of this plugin")
    kit.add_options(parser, name="pod-cache", idx="90")
    parsed = parser.parse_args()
    host, _, port = parsed.listen.rpartition(":")
    store = kit.InventoryStore(parsed.store) if parsed.store else None
    sys.exit(kit.run(PodCache(host, int(port), store), kit.Options.of(parsed)))


if __name__ == "__main__":
    main()
