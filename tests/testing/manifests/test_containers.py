"""Containers of a pod: command lines, annotations, unknown fields."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nri_sync.testing.manifests import Assumptions, ImageConfig, Workload, load
from tests.testing.manifests import container, only

__all__: list[str] = []

IMAGE = ImageConfig(entrypoint=["/entry"], cmd=["serve"], working_dir="/www")
PREFIX = "io.kubernetes.container"


def pod(entry: Any, *, image: ImageConfig | None = None, spec: Any = None) -> Workload:
    containers = [{"name": "app", "image": "busybox", **entry}]
    manifest = {
        "kind": "Pod",
        "metadata": {"name": "pod"},
        "spec": {"containers": containers, **(spec or {})},
    }
    images = {} if image is None else {"busybox": image}
    return only(load(json.dumps(manifest), assumptions=Assumptions(images=images)))


@pytest.mark.parametrize(
    ("entry", "args"),
    [
        ({}, ["/entry", "serve"]),
        ({"args": ["test"]}, ["/entry", "test"]),
        ({"command": ["sh"]}, ["sh"]),
        ({"command": ["sh"], "args": ["-c", "$(A)"], "env": [{"name": "A", "value": "b"}]}, ["sh", "-c", "b"]),
    ],
)  # fmt: skip
def test_command_lines(entry: Any, args: list[str]) -> None:
    assert list(container(pod(entry, image=IMAGE)).container.args) == args


@pytest.mark.parametrize(
    ("entry", "args"),
    [({}, []), ({"args": ["test"]}, ["test"])],
)
def test_the_command_of_an_unknown_image(entry: Any, args: list[str]) -> None:
    found = container(pod(entry)).container
    assert list(found.args) == ["<the entrypoint of busybox>", *args]


@pytest.mark.parametrize(("entry", "cwd"), [({}, "/www"), ({"workingDir": "/srv"}, "/srv")])
def test_working_directories(entry: Any, cwd: str) -> None:
    assert container(pod(entry, image=IMAGE)).spec["process"]["cwd"] == cwd


def test_ports() -> None:
    ports = [
        {"containerPort": 80},
        {"hostIP": "::1", "containerPort": 53, "protocol": "UDP", "hostPort": 5353, "name": "dns"},
    ]
    found = container(pod({"ports": ports})).container.annotations[f"{PREFIX}.ports"]
    assert found == (
        '[{"containerPort":80,"protocol":"TCP"},'
        '{"name":"dns","hostPort":5353,"containerPort":53,"protocol":"UDP","hostIP":"::1"}]'
    )
    bare = container(pod({})).container.annotations
    assert f"{PREFIX}.ports" not in bare
    assert f"{PREFIX}.preStopHandler" not in bare


def test_the_termination_message() -> None:
    entry = {
        "terminationMessagePath": "/tmp/x",
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    found = container(pod(entry)).container
    assert found.annotations[f"{PREFIX}.terminationMessagePath"] == "/tmp/x"
    assert found.annotations[f"{PREFIX}.terminationMessagePolicy"] == "FallbackToLogsOnError"
    [mount] = [mount for mount in found.mounts if mount.destination == "/tmp/x"]
    assert "/containers/app/" in mount.source


@pytest.mark.parametrize(
    ("entry", "note"),
    [
        ({"resources": {"limits": {"vendor.com/fpga": 1}}}, "device plugin for vendor.com/fpga are unknown"),
        ({"resources": {"claims": [{"name": "gpu"}]}}, "resource claim gpu are unknown"),
        ({"volumeDevices": [{"name": "raw", "devicePath": "/dev/x"}]}, "its block devices are unknown"),
    ],
)  # fmt: skip
def test_devices_that_only_the_node_knows(entry: Any, note: str) -> None:
    [found] = pod(entry, image=IMAGE).notes
    assert found.startswith("container app: ")
    assert found.endswith(note)


def test_the_note_lists_the_values_of_an_unknown_image() -> None:
    [everything] = pod({}).notes
    assert everything == (
        "container app: of image busybox is unknown: its variables, its command (a placeholder replaces it), "
        "its working directory (assumed: /), its user (assumed: 0), the groups in its /etc/group"
    )
    entry = {
        "command": ["sh"],
        "workingDir": "/",
        "securityContext": {"runAsUser": 1, "runAsGroup": 1},
    }
    [little] = pod(entry).notes
    assert little == (
        "container app: of image busybox is unknown: its variables, the groups in its /etc/group"
    )


def test_ids_of_containers_that_exist() -> None:
    manifest = {
        "kind": "Pod",
        "metadata": {"name": "pod"},
        "spec": {"containers": [{"name": name, "image": "busybox"} for name in ("one", "two")]},
        "status": {"containerStatuses": [{"name": "two", "containerID": "containerd://abc"}]},
    }
    found = only(load(json.dumps(manifest)))
    assert container(found, "two").container.id == "abc"
    assert len(container(found, "one").container.id) == 64
