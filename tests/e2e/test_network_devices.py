"""The network device injector moves kernel devices between two network namespaces of the test."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

__all__: list[str] = []

ROOT = Path(__file__).resolve().parents[2]

# pyroute2 works in the network namespace of its process, so run it as a separate process.
MOVE = """
import json, sys
from examples.network_device_injector.plugin import NetworkDevice, move_in, move_out
try:
    {"in": move_in, "out": move_out}[sys.argv[1]](NetworkDevice(**json.loads(sys.argv[2])), sys.argv[3])
except Exception as error:
    sys.exit(str(error))
"""


# pyroute2 forks a process for a namespace. It leaves that process's socket open until the end, and often warns
# before the process has ended. A resource that this project leaves open is still an error.
WARNINGS = ["-W", "error", "-W", "ignore::ResourceWarning:pyroute2.process"]


class Namespace:
    """A network namespace that exists as long as a process of the test."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo ready; read end"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"
        self.path = f"/proc/{self.process.pid}/ns/net"

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        inside = ["nsenter", f"--net={self.path}", *command]
        return subprocess.run(inside, cwd=ROOT, capture_output=True, text=True, check=False)

    def links(self) -> dict[str, Any]:
        found = json.loads(self.run("ip", "-json", "addr").stdout)
        return {link["ifname"]: link for link in found if link["ifname"] != "lo"}

    def close(self) -> None:
        self.process.communicate(b"\n")


@pytest.fixture
def host() -> Iterator[Namespace]:
    host = Namespace()
    made = host.run("ip", "link", "add", "v0", "up", "type", "veth", "peer", "name", "v1")
    assert made.returncode == 0, made.stderr
    yield host
    host.close()


@pytest.fixture
def pod() -> Iterator[Namespace]:
    pod = Namespace()
    yield pod
    pod.close()


def move(direction: str, host: Namespace, pod: Namespace, **device: Any) -> str:
    """Move a device; returns the error, or an empty text."""
    done = host.run(sys.executable, *WARNINGS, "-c", MOVE, direction, json.dumps(device), pod.path)
    return done.stderr


def test_in_and_out(host: Namespace, pod: Namespace) -> None:
    device = {"name": "v0", "new_name": "net0", "address": "192.168.2.2", "prefix": 24, "mtu": 1400}
    assert move("in", host, pod, **device) == ""
    assert host.links().keys() == {"v1"}
    (link,) = pod.links().values()
    assert (link["ifname"], link["mtu"]) == ("net0", 1400)
    assert "UP" in link["flags"]
    (address,) = [each for each in link["addr_info"] if each["family"] == "inet"]
    assert (address["local"], address["prefixlen"]) == ("192.168.2.2", 24)

    # The kernel keeps the original name with the device, because an annotation may have changed meanwhile.
    assert move("out", host, pod, name="other", new_name="net0") == ""
    assert host.links().keys() == {"v0", "v1"}
    assert "UP" not in host.links()["v0"]["flags"]
    assert pod.links() == {}


def test_a_name_that_is_taken(host: Namespace, pod: Namespace) -> None:
    pod.run("ip", "link", "add", "v0", "type", "veth", "peer", "name", "v7")
    assert "exists" in move("in", host, pod, name="v0")
    assert host.links().keys() == {"v0", "v1"}, "it is back"
    assert pod.links().keys() == {"v0", "v7"}


def test_a_missing_device_is_named(host: Namespace, pod: Namespace) -> None:
    assert "there is no network device v7" in move("in", host, pod, name="v7")
    assert "there is no network device v0" in move("out", host, pod, name="v0")
