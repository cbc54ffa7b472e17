"""A container runtime in a private directory, and the removal of all its traces."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, TypeVar

from tests.e2e import machine
from tests.e2e.build import Tools
from tests.e2e.cri import Cri

__all__ = ["BLOCKIO_CLASS", "BLOCKIO_LIMIT", "Node"]

START_TIMEOUT = 60.0
END_TIMEOUT = 20.0
CAP_SYS_RESOURCE = 24

# Replaces the network plugins: it gives each pod an address, and changes nothing.
NETWORK_PLUGIN = """\
#!/bin/sh
if [ "$CNI_COMMAND" = VERSION ]; then
  echo '{"cniVersion": "1.0.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0"]}'
elif [ "$CNI_COMMAND" = ADD ]; then
  echo '{"cniVersion": "1.0.0",
    "interfaces": [{"name": "'$CNI_IFNAME'", "sandbox": "'$CNI_NETNS'"}],
    "ips": [{"interface": 0, "address": "10.99.0.2/24"}]}'
fi
"""


# Sandboxes request a lower OOM score. Setting it needs a capability that the machine may not give.
OCI_RUNTIME = """\
#!/bin/sh
own=$(cat /proc/self/oom_score_adj)
for argument; do
  case $before in
    --bundle|-b) sed -i -E 's/("oomScoreAdj": *)-[0-9]+/\\1'"$own"'/' "$argument/config.json" ;;
  esac
  before=$argument
done
exec "{runc}" "$@"
"""

# A class of block I/O for plugins, with a device of the machine.
BLOCKIO_CLASS = "slow"
BLOCKIO = """\
Classes:
  {name}:
  - Devices: ["{device}"]
    ThrottleReadBps: "{limit}"
"""
BLOCKIO_LIMIT = 1 << 20

N = TypeVar("N", bound="Node")


class Node:
    """A runtime, not started. It is a context manager; its end removes all traces, in any state of the runtime."""

    #: The runtime's name, its version, and its NRI release.
    name = ""
    version = ""
    nri = ""
    #: The directory of the NRI socket, relative to the runtime's directory.
    nri_directory = "."
    #: Features that exist, but differ from the tests, with the difference.
    differs: ClassVar[Mapping[str, str]] = {}
    #: The directories of all runtimes.
    made: ClassVar[list[Path]] = []

    def __init__(self, tools: Tools) -> None:
        self.tools = tools
        self.root = Path(tempfile.mkdtemp(prefix=machine.PREFIX, dir="/tmp"))
        self.made.append(self.root)
        self._guard = machine.Guard(self.root)
        self.nri_socket = self.root / self.nri_directory / "nri.sock"
        self.plugin_path = self.root / "plugins"
        self.config_path = self.root / "conf.d"
        self.cdi_path = self.root / "cdi"
        self.log = self.root / "log"
        self.cgroup = f"/{self.root.name}"
        self._process: subprocess.Popen[bytes] | None = None
        for name in ("plugins", "conf.d", "cdi", "cni", "cni.d"):
            (self.root / name).mkdir()
        for name in ("any", "loopback"):
            program = self.root / "cni" / name
            program.write_text(NETWORK_PLUGIN)
            program.chmod(0o755)
        blockio = BLOCKIO.format(
            name=BLOCKIO_CLASS, device=machine.block_device() or "", limit=BLOCKIO_LIMIT
        )
        (self.root / "blockio.yaml").write_text(blockio)
        network = {"cniVersion": "1.0.0", "name": "e2e", "plugins": [{"type": "any"}]}
        (self.root / "cni.d" / "10-e2e.conflist").write_text(json.dumps(network))
        self.cri = Cri(tools.cri, self.root / "c.sock", self.cgroup, self.root / "pods")

    def command(self) -> list[str]:
        """The command that starts the runtime."""
        raise NotImplementedError

    def runc(self) -> Path:
        """A runc that works on this machine with any requested OOM score."""
        if _may_lower_oom_score():
            return self.tools.runc
        program = self.root / "runc-here"
        program.write_text(OCI_RUNTIME.format(runc=self.tools.runc))
        program.chmod(0o755)
        return program

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the runtime. Returns when it is ready for pods and for plugins."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, "PATH": f"{self.tools.directory}:{os.environ['PATH']}"},
            )  # fmt: skip
        machine.wait_for(lambda: _is_listening(self.nri_socket) or not self.running)
        if not self.running:
            raise RuntimeError(f"{self.name} did not start:\n{self.log.read_text()[-4000:]}")
        self.cri.call("Status", timeout=START_TIMEOUT)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Terminate the runtime in an orderly way; its pods continue."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the runtime, like a crash; its pods continue."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.wait(END_TIMEOUT)

    def __enter__(self: N) -> N:
        return self

    def __exit__(self, *exc_info: object) -> None:
        try:
            if self.running:
                self.cri.remove_all()
        finally:
            self.cri.close()
            self._end(signal.SIGTERM)
            left = self._left()
            machine.clean_up(self.root)
            self._guard.close()
        # Only a successful test has to clean up. A failed one may leave pods.
        assert exc_info[0] is not None or left == [], left

    def _left(self) -> list[str]:
        """The traces that remain after a moment, in which shims and launched plugins can end."""
        give_up = time.monotonic() + END_TIMEOUT
        while True:
            left = [trace for trace in machine.traces(self.root) if not trace.startswith("cgroup")]
            if not left or time.monotonic() > give_up:
                return left
            time.sleep(0.02)


def _is_listening(path: Path) -> bool:
    """Whether a process listens on a Unix socket. After a crash, the file remains without a listener."""
    accepts = "00010000"
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    return any(line[-1] == str(path) and line[3] == accepts for line in lines)


def _may_lower_oom_score() -> bool:
    """Whether a process here may lower its OOM score, which needs CAP_SYS_RESOURCE."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> CAP_SYS_RESOURCE & 1)
    return False
