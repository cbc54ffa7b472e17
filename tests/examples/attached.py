"""Ways to run a plugin: with interceptors that need its stub, as ``kit.main`` does, and as a program."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nri_sync import Stub
from nri_sync.testing import FakeRuntime

__all__ = ["run_attached", "run_program", "wait_until_asked"]


@contextlib.contextmanager
def run_attached(runtime: FakeRuntime, plugin: object, *interceptors: Any) -> Iterator[Stub]:
    """Start a stub, and wait until it receives events; stops it at the end of the block."""
    path = runtime.socket_path
    stub = Stub(plugin, name="test", idx="10", socket_path=path, interceptors=interceptors)
    with contextlib.closing(stub):
        stub.start()
        wait_until_asked(runtime)
        yield stub


def wait_until_asked(runtime: FakeRuntime) -> None:
    """Wait until the runtime has synchronized a plugin."""
    runtime.wait_for(lambda: runtime.plugins)


@contextlib.contextmanager
def run_program(runtime: FakeRuntime, example: str, *options: str) -> Iterator[None]:
    """Run an example as a process, which is synchronized in the block. SIGTERM must end it with exit code 0."""
    program = Path(__file__).resolve().parents[2] / "examples" / example / "plugin.py"
    command = [sys.executable, str(program), "--socket", runtime.socket_path, *options]
    process = subprocess.Popen(command)
    try:
        wait_until_asked(runtime)
        yield
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
