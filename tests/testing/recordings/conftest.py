"""A runtime, a proxy in front of it, and the entries of the proxy."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nri_sync.testing import FakeRuntime
from nri_sync.testing.recordings import Entry, Proxy

__all__ = ["LONG", "Seen"]

LONG = 20.0


class Seen:
    """Collects the entries of a proxy on a separate thread."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.entries: list[Entry] = []
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        for entry in self.proxy:
            with self._changed:
                self.entries.append(entry)
                self._changed.notify_all()

    def wait(self, condition: Callable[[list[Entry]], object]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self.entries), LONG), self.entries

    def wait_kind(self, kind: str, times: int = 1) -> None:
        self.wait(lambda entries: sum(entry.kind == kind for entry in entries) >= times)

    def close(self) -> list[Entry]:
        self.proxy.close()
        self._thread.join()
        return self.entries


@pytest.fixture
def proxy(runtime: FakeRuntime, socket_dir: Path) -> Iterator[Proxy]:
    with Proxy(str(socket_dir / "t"), runtime.socket_path) as proxy:
        yield proxy


@pytest.fixture
def seen(proxy: Proxy) -> Iterator[Seen]:
    seen = Seen(proxy)
    yield seen
    seen.close()
