"""Interrupts on the main thread, at every bytecode of the methods that the main thread may call.

By default a sample; all bytecodes with ``NRI_SYNC_SIGNALS=full`` in the environment.
"""

from __future__ import annotations

import os
import threading
from functools import partial
from pathlib import Path
from typing import Any, Callable

import pytest

import nri_sync
from nri_sync import api
from nri_sync.runtime import Runtime
from tests.runtime.rig import (
    CONTAINER,
    LONG,
    POD,
    Host,
    PluginWith,
    host_options,
    interrupted_at,
    on_thread,
)

__all__: list[str] = []

_STRIDE = 1 if os.environ.get("NRI_SYNC_SIGNALS") == "full" else 7


def make(host: Host, directory: Path) -> Runtime:
    plugin = PluginWith(create_container=lambda pod, container: api.Adjustment().add_env("A", "1"))
    options = host_options(host, directory, plugins={"10-here": plugin})
    return Runtime("test", "1", **options)


def check(runtime: Runtime, connect: Callable[[], nri_sync.Stub]) -> None:
    """The runtime works: no call waits for a lock that the interrupt has left held."""
    for _ in range(2):
        runtime.stop()
        assert not runtime.started
        runtime.start()
        with connect():
            assert runtime.wait_for_plugins(lambda names: len(names) == 2, LONG)
            with runtime.block_plugin_sync(LONG):
                assert runtime.create_container(POD, CONTAINER, timeout=LONG).adjust.env


CALLS: dict[str, Callable[[Runtime], Any]] = {
    "start": Runtime.start,
    "stop": Runtime.stop,
    "event": lambda runtime: runtime.run_pod_sandbox(POD),
    "create": lambda runtime: runtime.create_container(POD, CONTAINER),
    "wait": lambda runtime: runtime.wait_for_plugins(lambda names: len(names) == 1, LONG),
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("call", CALLS)
def test_the_runtime_works_after_an_interrupt(call: str, host: Host, socket_dir: Path) -> None:
    runtime = make(host, socket_dir)
    handlers = PluginWith(run_pod_sandbox=lambda pod: None)

    def connect() -> nri_sync.Stub:
        return nri_sync.Stub(
            handlers, name="there", idx="20", socket_path=str(socket_dir / "nri.sock")
        )

    threads = threading.active_count()
    number = 0
    while True:
        if call != "start":
            runtime.start()
        if not interrupted_at(number, partial(CALLS[call], runtime)):
            break
        # On another thread, which would wait for a lock that the main thread has left held.
        on_thread(lambda: check(runtime, connect))()
        runtime.stop()
        number += _STRIDE
    runtime.stop()
    assert number > 30
    assert threading.active_count() < threads + 20
