"""The plugins of tests/torture, with processes of the Go runtime side that exit or are killed."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from pathlib import Path

import pytest

from nri_sync.api import nri_pb2
from tests.interop.gopeer import PeerError, PeerGone
from tests.interop.goruntime import RELEASES, GoRuntime
from tests.torture.harness import RESTARTS, TEMPLATES, Books, run_alone, survive

__all__: list[str] = []

LIMIT = 60 + RESTARTS * 1.0


class Torment:
    """Consecutive runtimes. Each ends at a random moment."""

    def __init__(self, socket_path: Path, books: Books, seed: int) -> None:
        self.socket_path = socket_path
        self.books = books
        self.random = random.Random(seed)

    def live(self) -> None:
        """Run one runtime: a process that relays requests until it has ended."""
        gone = threading.Event()
        with GoRuntime(RELEASES[0], self.socket_path) as runtime:

            def go() -> None:
                gone.set()
                # Killed like a crash, or stopped like an upgrade.
                if self.random.random() < 0.7:
                    os.kill(runtime.pid, signal.SIGKILL)
                else:
                    runtime.begin("stop")

            runtime.start()
            fate = threading.Timer(self.random.uniform(0, 0.08), go)
            try:
                runtime.wait_event("connected")
                self.books.registrations += 1
                fate.start()
                while not gone.is_set():
                    self.ask(runtime, gone)
            except PeerGone:
                assert gone.is_set()
            finally:
                fate.cancel()
                if fate.ident is not None:
                    fate.join()

    def ask(self, runtime: GoRuntime, gone: threading.Event) -> None:
        number = self.books.send()
        container = nri_pb2.Container(id=str(number))
        try:
            reply = runtime.request("CreateContainer", container=container)
        except PeerError:
            if not gone.is_set():
                raise
            reply = nri_pb2.CreateContainerResponse()
        except PeerGone:
            self.books.cut[number] = 1
            raise
        answer = reply.adjust.annotations.get("id")
        if answer is not None:
            assert answer == str(number)
            self.books.answered[number] = 1
        elif gone.is_set():
            self.books.cut[number] = 1


@pytest.mark.timeout(2 * LIMIT)
@pytest.mark.parametrize("template", TEMPLATES)
def test_restarts(template: str, socket_path: Path) -> None:
    print(run_alone(__name__, template, str(socket_path), timeout=LIMIT))


def main(template: str, path: str) -> None:
    books = Books()
    torment = Torment(Path(path), books, seed=1)
    print(survive(TEMPLATES[template](books, path), books, torment.live))
    assert books.registrations == RESTARTS, books


if __name__ == "__main__":
    main(*sys.argv[1:])
