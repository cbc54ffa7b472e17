"""Runtimes of this package that end at random moments, in the process of the plugin."""

from __future__ import annotations

import contextlib
import random
import socket
import sys
import threading
from pathlib import Path

import pytest

from nri_sync import api, errors
from nri_sync.errors import CallFailed
from nri_sync.runtime import Peer
from tests.torture.harness import PROMPTLY, RESTARTS, TEMPLATES, Books, run_alone, survive

__all__: list[str] = []

LIMIT = 30 + RESTARTS * 0.5


class Runtime:
    """Accepts a plugin, sends it requests, and ends at a random moment; repeatedly."""

    def __init__(self, socket_path: str, books: Books, seed: int) -> None:
        self.socket_path = socket_path
        self.books = books
        self.random = random.Random(seed)

    def live(self) -> None:
        """Run one runtime: it listens, accepts one plugin, and ends with that connection, in any way."""
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener:
            with contextlib.suppress(FileNotFoundError):
                Path(self.socket_path).unlink()
            listener.bind(self.socket_path)
            listener.listen()
            listener.settimeout(PROMPTLY)
            sock, _ = listener.accept()
            if self.random.random() < 0.5:
                # Meanwhile there is no listener. Plugins in the queue of the old listener are rejected.
                listener.close()
            self.serve(Peer(sock))

    def serve(self, peer: Peer) -> None:
        gone = threading.Event()

        def go() -> None:
            gone.set()
            peer.close()

        fate = threading.Timer(self.random.uniform(0, 0.06), go)
        fate.start()
        try:
            peer.wait_registered(PROMPTLY)
            peer.configure(
                api.ConfigureRequest(runtime_name="torture", NRI_version="v0.12.0"), PROMPTLY
            )
            self.books.registrations += 1
            peer.synchronize([], [], PROMPTLY)
            while True:
                self.ask(peer, gone)
        except (CallFailed, errors.ConnectionLost):
            pass
        finally:
            fate.cancel()
            fate.join()
            peer.close()
            assert peer.wait_closed(PROMPTLY)

    def ask(self, peer: Peer, gone: threading.Event) -> None:
        number = self.books.send()
        request = api.CreateContainerRequest(container=api.Container(id=str(number)))
        try:
            reply = peer.call("CreateContainer", request, PROMPTLY)
        except CallFailed:
            if gone.is_set():
                self.books.cut[number] = 1
            raise
        assert reply.adjust.annotations["id"] == str(number)
        self.books.answered[number] = 1


@pytest.mark.slow
@pytest.mark.timeout(2 * LIMIT)
@pytest.mark.parametrize("template", TEMPLATES)
def test_restarts(template: str, socket_dir: Path) -> None:
    print(run_alone(__name__, template, str(socket_dir / "s"), timeout=LIMIT))


def main(template: str, path: str) -> None:
    books = Books()
    runtime = Runtime(path, books, seed=1)
    print(survive(TEMPLATES[template](books, path), books, runtime.live))
    # The other runtimes ended before they had configured the plugin.
    assert books.registrations > RESTARTS / 2, books


if __name__ == "__main__":
    main(*sys.argv[1:])
