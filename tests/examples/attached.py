"""A plugin with interceptors that need its stub, as ``kit.main`` runs it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from nri_sync import Stub
from nri_sync.testing import FakeRuntime

__all__ = ["run_attached", "wait_until_asked"]


@contextlib.contextmanager
def run_attached(runtime: FakeRuntime, plugin: object, *interceptors: Any) -> Iterator[Stub]:
    """Started, and asked for events; stopped at the end of the block."""
    path = runtime.socket_path
    stub = Stub(plugin, name="test", idx="10", socket_path=path, interceptors=interceptors)
    for interceptor in interceptors:
        interceptor.attach(stub)
    with stub:
        wait_until_asked(runtime)
        yield stub


def wait_until_asked(runtime: FakeRuntime) -> None:
    """Until the runtime has synchronized a plugin."""
    runtime.wait_for(lambda: runtime.plugins)
