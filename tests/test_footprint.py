"""The modules that a plugin loads: each one takes memory on every node, and time in every start."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nri_sync.runtime import Runtime
from tests.runtime.rig import CONTAINER, LONG, POD, Host, host_options

__all__: list[str] = []

# The plugin of each program records the modules when its end is requested, after it has served requests.
PLUGIN = """
import json, sys, threading, nri_sync

class Plugin(nri_sync.Plugin):
    def synchronize(self, pods, containers):
        return []

    def create_container(self, pod, container):
        context = nri_sync.request_context()
        assert context.time_remaining() > 0 and context.is_active()
        return nri_sync.api.Adjustment().add_env("A", "1")

    def remove_container(self, pod, container):
        nri_sync.request_context().abort(nri_sync.StatusCode.NOT_FOUND, "no such container")

def note():
    print(json.dumps(sorted(sys.modules)), flush=True)
"""
STUB = """
stub = nri_sync.Stub(Plugin(), name="test", idx="10", socket_path=sys.argv[1])
stub.start()
assert stub.wait_synchronized(20)
assert stub.update_containers([nri_sync.api.Update("c").set_cpu(shares=5)]) == []
sys.stdin.readline()
note()
stub.stop()
"""
MAIN = """
from nri_sync import kit

Plugin.on_stop = lambda self: note()

def stop():
    import os, signal
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=stop, daemon=True).start()
sys.argv[1:] = ["--socket", sys.argv[1], "--name", "test", "--idx", "10"]
kit.main(Plugin)
"""
FAKE = """
from nri_sync.errors import CallFailed, RequestFailed
from nri_sync.testing import FakeRuntime, make_container, make_pod

with FakeRuntime() as runtime:
    path = runtime.socket_path
    with nri_sync.Stub(Plugin(), name="test", idx="10", socket_path=path) as stub:
        assert stub.wait_synchronized(20)
        pod = make_pod()
        runtime.run_pod(pod)
        created = runtime.create_container(pod, make_container(pod))
        assert "A=1" in created.container.env
        try:
            runtime.remove_container(created.container.id)
        except RequestFailed as failed:
            assert isinstance(failed.__cause__, CallFailed)
            assert failed.__cause__.code() is nri_sync.StatusCode.NOT_FOUND
        else:
            raise AssertionError
note()
"""


def modules_of(program: str, socket_dir: Path) -> set[str]:
    """The modules of a plugin that has served a runtime of this process."""
    options = host_options(Host(), socket_dir)
    with Runtime("runtime", "1", **options) as runtime:
        process = subprocess.Popen(
            [sys.executable, "-c", PLUGIN + program, options["socket_path"]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert runtime.wait_for_plugins(lambda names: "10-test" in names, LONG)
            answer = runtime.create_container(POD, CONTAINER)
            assert answer.adjust.env[0].key == "A"
            output, errors = process.communicate("\n", timeout=LONG)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 0, errors
    found: list[str] = json.loads(output)
    return set(found)


# Imports of Python and protobuf themselves, and of argparse for a program.
BASE = "import argparse, json, logging, socket, sys, threading, google.protobuf.any_pb2\n"
# Modules that a plugin needs at most for a feature that it uses. Those for TLS and HTTP take 6 MB.
RARE = {
    "asyncio", "concurrent.futures", "ctypes", "dataclasses", "email", "fractions", "hashlib", "html",
    "http", "http.client", "http.server", "inspect", "logging.config", "multiprocessing", "pathlib", "random",
    "secrets", "socketserver", "ssl", "subprocess", "tempfile", "unittest", "urllib.request", "uuid", "xml",
    "google.protobuf.json_format",
}  # fmt: skip


def of_grpc(modules: set[str]) -> set[str]:
    return {
        name
        for name in modules
        if name.split(".")[0] == "grpc" or name.endswith("_pb2_grpc") or "nri_sync.ttrpc" in name
    }


@pytest.mark.parametrize("program", [STUB, MAIN], ids=["a stub", "kit.main"])
def test_a_plugin_loads_neither_grpc_nor_rarely_used_modules(
    program: str, socket_dir: Path
) -> None:
    modules = modules_of(program, socket_dir)
    assert "nri_sync.rpc.server_call" in modules
    assert of_grpc(modules) == set()
    bare = [sys.executable, "-c", BASE + "print(json.dumps(sorted(sys.modules)))"]
    before = json.loads(subprocess.run(bare, capture_output=True, check=True, text=True).stdout)
    assert modules & RARE - set(before) == set()


def test_the_runtime_side_and_the_test_kit_do_not_load_grpc() -> None:
    command = [sys.executable, "-c", PLUGIN + FAKE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3 * LONG, check=False)
    assert done.returncode == 0, done.stderr
    modules = set(json.loads(done.stdout))
    assert "nri_sync.runtime.relay" in modules
    assert of_grpc(modules) == set()
