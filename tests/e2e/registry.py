"""A registry of images, for runtimes that cannot import an image from a file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

__all__ = ["serve"]

_OCI = "application/vnd.oci.image"


class _Image:
    """An archive of `docker save`, split into the parts of the registry protocol."""

    def __init__(self, archive: Path) -> None:
        with tarfile.open(archive) as tar:
            files = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        (image,) = json.loads(files["manifest.json"])
        # As it is in the paths of the protocol.
        self.name = image["RepoTags"][0].partition("/")[2].partition(":")[0]
        config, layers = files[image["Config"]], [files[name] for name in image["Layers"]]
        self.blobs = {_digest(blob): blob for blob in [config, *layers]}
        self.manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": f"{_OCI}.manifest.v1+json",
                "config": _describe(config, f"{_OCI}.config.v1+json"),
                "layers": [_describe(layer, f"{_OCI}.layer.v1.tar") for layer in layers],
            }
        ).encode()


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _describe(blob: bytes, kind: str) -> dict[str, object]:
    return {"mediaType": kind, "digest": _digest(blob), "size": len(blob)}


@contextlib.contextmanager
def serve(*archives: Path) -> Iterator[str]:
    """Serve the images, by their names without a host; yields the address of the registry."""
    images = {image.name: image for image in map(_Image, archives)}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle(self) -> None:
            # A client may be killed while its connection is open.
            with contextlib.suppress(ConnectionResetError):
                super().handle()

        def do_GET(self) -> None:
            *name, kind, reference = self.path.rstrip("/").split("/")
            image = images.get("/".join(name[2:]))
            status, content, body = 200, "application/json", b"{}"
            if image is None:
                status = 200 if self.path.rstrip("/") == "/v2" else 404
            elif kind == "manifests":
                content, body = f"{_OCI}.manifest.v1+json", image.manifest
            elif kind == "blobs" and reference in image.blobs:
                content, body = "application/octet-stream", image.blobs[reference]
            elif kind == "blobs":
                status = 404
            self.send_response(status)
            self.send_header("Content-Type", content)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, name="registry")
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
