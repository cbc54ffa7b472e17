"""The kit's interpretation of the fields that a runtime sets, compared with the machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nri_sync import kit
from tests.e2e.build import IMAGE
from tests.e2e.conftest import Connect
from tests.e2e.cri import Cri
from tests.interop.plugins import Recorder

__all__: list[str] = []


def until(plugin: Recorder, name: str) -> tuple[Any, ...]:
    """The arguments of the next call of that handler."""
    called, told = plugin.next_call()
    while called != name:
        called, told = plugin.next_call()
    return told


def test_cgroups_and_names(connect: Connect, cri: Cri) -> None:
    plugin = Recorder()
    connect(plugin)
    pod = cri.run_pod()
    container = pod.run()
    seen, created = until(plugin, "create_container")
    _, started = until(plugin, "post_start_container")
    assert kit.container_name(created) == container.name
    root = kit.CgroupRoot()
    controller = "" if root.version == 2 else "memory"
    # Also in CreateContainer, in which some runtimes have no path yet.
    for told in (created, started):
        path = kit.container_cgroup(told, seen)
        assert path is not None
        assert path == kit.process_cgroup(container.pid, controller)
        assert str(container.pid) in (root.directory(path, "memory") / "cgroup.procs").read_text()
        assert Path(path).parent == Path(kit.pod_cgroup(seen) or "")


def test_network_namespaces(connect: Connect, cri: Cri) -> None:
    plugin = Recorder()
    connect(plugin)
    cri.run_pod()
    (on_host,) = until(plugin, "run_pod_sandbox")
    assert kit.network_namespace(on_host) is None
    pod = cri.run_pod(own_network=True)
    container = pod.run()
    (seen,) = until(plugin, "run_pod_sandbox")
    path = kit.network_namespace(seen)
    assert path is not None
    assert os.stat(path).st_ino == os.stat(f"/proc/{container.pid}/ns/net").st_ino
    _, created = until(plugin, "create_container")
    inside = kit.network_namespace(type(seen)(), [created])
    assert inside is not None
    assert os.stat(inside).st_ino == os.stat(path).st_ino


def test_images(connect: Connect, cri: Cri) -> None:
    plugin = Recorder()
    stub = connect(plugin)
    cri.run_pod().create()
    pod, created = until(plugin, "create_container")
    image = kit.container_image(created, pod, runtime=stub)
    status = cri.call("ImageStatus", image={"image": IMAGE}).image
    assert str(image.reference) in status.repo_tags
    assert (image.id or "").endswith(status.id.partition(":")[2] or status.id)
