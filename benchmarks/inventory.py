"""Measures an inventory: ``python -m benchmarks.inventory [CONTAINERS]``, by default of 50,000 containers."""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Callable

from nri_sync import api
from nri_sync.kit import Inventory, InventoryStore

__all__ = ["container", "main", "pod"]

# Containers in each pod.
_EACH = 4


def pod(number: int) -> api.PodSandbox:
    """A pod with the fields that the kubelet sets."""
    uid = f"{number:08x}-0000-4000-8000-000000000000"
    message = api.PodSandbox(
        id=f"{number:064x}",
        name=f"web-{number:08x}",
        uid=uid,
        namespace=f"team-{number % 50}",
        pid=1_000_000 + number,
        ips=[f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"],
    )
    message.labels.update({f"app.kubernetes.io/label-{n}": f"value-{n}" for n in range(8)})
    message.annotations.update({f"example.com/annotation-{n}": "x" * 40 for n in range(8)})
    message.linux.cgroup_parent = f"kubepods-burstable-pod{uid.replace('-', '_')}.slice"
    message.linux.namespaces.add(type="network", path=f"/var/run/netns/cni-{uid}")
    return message


def container(number: int, running: bool = True) -> api.Container:
    """A container of pod ``number // 4``, with about 3 kB and without a seccomp filter."""
    message = api.Container(
        id=f"{number:063x}c",
        pod_sandbox_id=f"{number // _EACH:064x}",
        name=f"container-{number % _EACH}",
        pid=2_000_000 + number if running else 0,
        args=["/usr/bin/server", "--config=/etc/server/config.yaml", "--verbose"],
        env=[f"SERVICE_{n}_HOST=10.0.0.{n}" for n in range(30)],
        created_at=1_700_000_000_000_000_000 + number,
    )
    if running:
        message.state = api.ContainerState.CONTAINER_RUNNING
    message.labels.update({f"io.kubernetes.label-{n}": f"value-{n}" for n in range(5)})
    message.annotations.update({f"io.kubernetes.container/{n}": "x" * 40 for n in range(6)})
    for n in range(12):
        message.mounts.add(
            destination=f"/mnt/{n}",
            source=f"/var/lib/kubelet/pods/{number:08x}/volumes/{n}",
            type="bind",
            options=["rbind", "rprivate", "ro"],
        )
    for kind in ("pid", "ipc", "uts", "mount", "network", "cgroup"):
        message.linux.namespaces.add(type=kind, path=f"/proc/{number}/ns/{kind}")
    message.linux.resources.cpu.shares.value = 512
    message.linux.resources.memory.limit.value = 1 << 30
    message.linux.cgroups_path = (
        f"kubepods-burstable-pod{number // _EACH}.slice:cri-containerd:{message.id}"
    )
    return message


def _resident() -> float:
    """The resident memory of this process in megabytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _say(name: str, value: float, unit: str) -> None:
    print(f"{name:64} {value:10.3f} {unit}", flush=True)


@contextmanager
def _timed(name: str) -> Iterator[None]:
    """Print the elapsed time and the CPU time of the block."""
    began, worked = time.perf_counter(), time.process_time()
    yield
    _say(name, time.perf_counter() - began, "s")
    _say(f"{name}, processor", time.process_time() - worked, "s")


def _each(name: str, call: Callable[[int], object], numbers: range) -> None:
    """Print the median and the 99th percentile of single calls."""
    took = []
    for number in numbers:
        began = time.perf_counter()
        call(number)
        took.append((time.perf_counter() - began) * 1e6)
    took.sort()
    _say(f"{name}, median", statistics.median(took), "us")
    _say(f"{name}, 99 %", took[len(took) * 99 // 100], "us")


def _events(count: int) -> None:
    inventory = Inventory()
    before = _resident()
    for number in range(count):
        inventory.create_container(pod(number // _EACH), container(number, running=False))
    _say("memory", _resident() - before, "MB")
    sample = range(0, count, max(1, count // 5000))
    messages = {number: (pod(number // _EACH), container(number)) for number in sample}
    empty = api.LinuxResources()
    _each(
        "event that changes a container", lambda n: inventory.start_container(*messages[n]), sample
    )
    _each(
        "event that changes nothing",
        lambda n: inventory.update_container(*messages[n], empty),
        sample,
    )
    _each("snapshot", lambda n: inventory.snapshot(), sample)
    snapshot = inventory.snapshot()
    _each("lookup by id", lambda n: snapshot.container(messages[n][1].id), sample)
    _each("lookup by IP", lambda n: snapshot.pod_by_ip(messages[n][0].ips[0]), sample)
    _each("lookup by pid", lambda n: snapshot.container_by_pid(messages[n][1].pid), sample)
    paths = {
        n: f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{n // _EACH}.slice/"
        f"cri-containerd-{messages[n][1].id}.scope"
        for n in sample
    }
    found = [snapshot.container_by_cgroup(paths[n]) for n in sample]
    assert all(found)
    _each("lookup by cgroup", lambda n: snapshot.container_by_cgroup(paths[n]), sample)
    _each("message of a record", lambda n: snapshot.containers[messages[n][1].id].message, sample)
    with _timed("all containers of a snapshot, one by one"):
        assert sum(record.pid != 0 for record in snapshot.containers.values()) == len(sample)
    _each("remove a container", lambda n: inventory.remove_container(*messages[n]), sample)


def _synchronizations(count: int, directory: str) -> None:
    pods = [pod(number) for number in range((count + _EACH - 1) // _EACH)]
    containers = [container(number) for number in range(count)]
    inventory = Inventory()
    with _timed("first synchronize"):
        inventory.synchronize(pods, containers)
    with _timed("synchronize, nothing changed"):
        inventory.synchronize(pods, containers)
    for message in containers[::100]:
        message.state = api.ContainerState.CONTAINER_STOPPED
    with _timed("synchronize, one of 100 changed"):
        inventory.synchronize(pods, containers)
    path = f"{directory}/inventory.db"
    with InventoryStore(path) as store:
        with _timed("store: all of it written, by its thread"):
            store.save(inventory.snapshot())
            assert store.flush()
        for message in containers[::500]:
            inventory.remove_container(pods[0], message)
        with _timed("store: one of 500 removed"):
            store.save(inventory.snapshot())
            assert store.flush()
        _say("store: size", Path(path).stat().st_size / 1e6, "MB")
    with _timed("store: opened and loaded"), InventoryStore(path) as store:
        Inventory(store=store)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inventory", description=__doc__)
    parser.add_argument("containers", nargs="?", type=int, default=50_000)
    count = parser.parse_args().containers
    print(f"{count} containers of {container(0).ByteSize()} bytes, {_EACH} in each pod")
    _events(count)
    with tempfile.TemporaryDirectory() as directory:
        _synchronizations(count, directory)


if __name__ == "__main__":
    main()
