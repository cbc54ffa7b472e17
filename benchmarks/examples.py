"""Measures the resources of the example plugins, from which their manifests' requests and limits follow.

``python -m benchmarks.examples [NAME...]`` runs each plugin as its container does, on the embedded runtime. It
prints the cost of a probe, and a row of docs/deploying.md for each plugin: memory, and CPU time when idle and for
100 pods.
"""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.process import cpu_seconds, status
from nri_sync import api
from nri_sync.runtime import Runtime

__all__ = ["main"]

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
# These examples are templates and tools, and have no health file.
WITHOUT_HEALTH = {"differ", "embedded_service", "self_stopping"}
CONTAINERS = 100
IDLE = 5.0
PROBES = 10
TIMEOUT = 30.0


@contextlib.contextmanager
def running(name: str, socket: str, health: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the plugin as a process."""
    command = [sys.executable, str(EXAMPLES / name / "plugin.py"), "--socket", socket]
    if name not in WITHOUT_HEALTH:
        command.append(f"--health-file={health}")
    config = EXAMPLES / name / "config.yaml"
    if config.exists():
        command.append(f"--config={config}")
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(TIMEOUT)


def create(runtime: Runtime, number: int) -> None:
    """Send all events of a pod with one container, from its creation to its removal."""
    pod = api.PodSandbox(
        id=f"pod{number}", name=f"web-{number}", namespace="default", uid=f"u{number}"
    )
    container = api.Container(id=f"ctr{number}", pod_sandbox_id=pod.id, name="main", args=["sh"])
    with contextlib.suppress(Exception):  # a plugin may reject the container
        runtime.run_pod_sandbox(pod)
        runtime.create_container(pod, container)
        for event in ("post_create_container", "start_container", "post_start_container"):
            getattr(runtime, event)(pod, container)
        runtime.stop_container(pod, container)
    runtime.remove_container(pod, container)
    runtime.stop_pod_sandbox(pod)
    runtime.remove_pod_sandbox(pod)


def measure(name: str) -> str:
    """Measure a plugin; returns its row of the table."""
    with tempfile.TemporaryDirectory(prefix="nri") as directory:
        socket, health = f"{directory}/s", f"{directory}/health"
        runtime = Runtime(
            "bench", "1.0", synchronize=lambda deliver: deliver([], []),
            update_containers=lambda updates, evictions: [], socket_path=socket, plugin_path=None,
        )  # fmt: skip
        with runtime, running(name, socket, health) as process:
            if not runtime.wait_for_plugins(bool, TIMEOUT):
                raise SystemExit(f"{name} does not connect")
            before = cpu_seconds(process.pid)
            time.sleep(IDLE)
            idle = (cpu_seconds(process.pid) - before) / IDLE
            settled, before = status(process.pid, "VmRSS"), cpu_seconds(process.pid)
            for number in range(CONTAINERS):
                create(runtime, number)
            busy = cpu_seconds(process.pid) - before
            most = status(process.pid, "VmHWM")
    return (
        f"| {name} | {settled / 1024:.0f} | {most / 1024:.0f} | {idle * 1000:.1f} "
        f"| {busy / CONTAINERS * 1000:.1f} |"
    )


def probe() -> str:
    """Measure one run of the exec probe: CPU time in milliseconds, and peak memory in MB."""
    command = [sys.executable, "-m", "nri_sync.kit.probe", "/nonexistent"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(PROBES):
        subprocess.run(command, check=False, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    # The peak of rusage includes the parent's memory at the fork, so read VmHWM.
    code = (
        "from nri_sync.kit import probe; probe.check('/nonexistent'); "
        "print(*[line for line in open('/proc/self/status') if 'VmHWM' in line])"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    memory = int(found.stdout.split()[1]) / 1024
    return f"{cpu / PROBES * 1000:.0f} ms of CPU, {memory:.0f} MB"


def main(arguments: Sequence[str]) -> int:
    """Measure the named plugins, or all."""
    names = arguments or sorted(path.parent.name for path in EXAMPLES.glob("*/kustomization.yaml"))
    print(f"probe: {probe()}", flush=True)
    for name in names:
        print(measure(name), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
