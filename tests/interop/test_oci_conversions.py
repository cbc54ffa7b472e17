"""nri_sync.api.oci converts like the Go package api; test_api_defects.py has the differences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Callable

import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from nri_sync import api
from nri_sync.api import nri_pb2, oci
from tests.interop.gohelpers import GoHelpers, same, wire
from tests.interop.strategies import messages, texts

__all__: list[str] = []

MANY = settings(max_examples=200)


@pytest.fixture(scope="module")
def go() -> Iterator[GoHelpers]:
    helpers = GoHelpers()
    yield helpers
    helpers.close()


# Conversions that stand alone: the message, Go's function for one direction, and ours for both.
ALONE: list[tuple[type[Message], str, Callable[[Any], Any], Callable[[Any], Any]]] = [
    (
        nri_pb2.LinuxIOPriority,
        "FromOCILinuxIOPriority",
        oci.io_priority_from_oci,
        oci.io_priority_to_oci,
    ),
    (
        nri_pb2.LinuxScheduler,
        "FromOCILinuxScheduler",
        oci.scheduler_from_oci,
        oci.scheduler_to_oci,
    ),
    (
        nri_pb2.LinuxMemoryPolicy,
        "FromOCILinuxMemoryPolicy",
        oci.memory_policy_from_oci,
        oci.memory_policy_to_oci,
    ),
]


@MANY
@given(st.data())
@pytest.mark.parametrize(("kind", "function", "from_oci", "to_oci"), ALONE)
def test_conversions_that_stand_alone(
    go: GoHelpers,
    kind: type[Message],
    function: str,
    from_oci: Callable[[Any], Any],
    to_oci: Callable[[Any], Any],
    data: st.DataObject,
) -> None:
    message = data.draw(messages(kind))
    written = to_oci(message)
    _, theirs = go.call(f"{kind.__name__}.ToOCI", wire(message))
    assert written == theirs
    back = from_oci(written)
    (theirs,) = go.call(function, written)
    assert theirs is None if back is None else same(back, theirs)
    if written is not None:
        assert back == message


@MANY
@given(messages(nri_pb2.LinuxResources))
def test_resources(go: GoHelpers, resources: nri_pb2.LinuxResources) -> None:
    written = oci.resources_to_oci(resources)
    _, theirs = go.call("LinuxResources.ToOCI", wire(resources))
    assert written == theirs
    back = oci.resources_from_oci(written)
    (theirs,) = go.call("FromOCILinuxResources", written, {})
    assert back is not None
    assert same(back, theirs)


LISTS: list[tuple[type[Message], str, Callable[[Any], Any], Callable[[Any], Any]]] = [
    (nri_pb2.Mount, "FromOCIMounts", oci.mounts_from_oci, oci.mounts_to_oci),
    (nri_pb2.LinuxDevice, "FromOCILinuxDevices", oci.devices_from_oci, oci.devices_to_oci),
]


@MANY
@given(st.data())
@pytest.mark.parametrize(("kind", "function", "from_oci", "to_oci"), LISTS)
def test_lists(
    go: GoHelpers,
    kind: type[Message],
    function: str,
    from_oci: Callable[[Any], Any],
    to_oci: Callable[[Any], Any],
    data: st.DataObject,
) -> None:
    items = data.draw(st.lists(messages(kind), max_size=3))
    written = to_oci(items)
    extra = [None] if kind is nri_pb2.Mount else []
    theirs = [go.call(f"{kind.__name__}.ToOCI", wire(item), *extra)[1] for item in items]
    assert written == theirs
    (theirs,) = go.call(function, written)
    back = from_oci(written)
    assert back == items
    assert [wire(item) for item in back] == theirs


@MANY
@given(messages(nri_pb2.Hooks))
def test_hooks(go: GoHelpers, hooks: nri_pb2.Hooks) -> None:
    written = oci.hooks_to_oci(hooks)
    theirs = {
        key: [go.call("Hook.ToOCI", wire(hook))[1] for hook in getattr(hooks, field)]
        for key, field in (
            ("prestart", "prestart"),
            ("createRuntime", "create_runtime"),
            ("createContainer", "create_container"),
            ("startContainer", "start_container"),
            ("poststart", "poststart"),
            ("poststop", "poststop"),
        )
    }
    assert written == {key: stage for key, stage in theirs.items() if stage}
    back = oci.hooks_from_oci(written)
    assert back == hooks
    assert go.call("FromOCIHooks", written) == [wire(hooks)]


@MANY
@given(st.lists(messages(nri_pb2.LinuxNamespace), max_size=3))
def test_namespaces(go: GoHelpers, namespaces: list[nri_pb2.LinuxNamespace]) -> None:
    written = oci.namespaces_to_oci(namespaces)
    assert oci.namespaces_from_oci(written) == namespaces
    assert go.call("FromOCILinuxNamespaces", written) == [[wire(item) for item in namespaces]]


@MANY
@given(st.dictionaries(texts, messages(nri_pb2.LinuxNetDevice), max_size=3))
def test_net_devices(go: GoHelpers, devices: dict[str, nri_pb2.LinuxNetDevice]) -> None:
    written = oci.net_devices_to_oci(devices)
    there = {name: wire(device) for name, device in devices.items()}
    assert go.call("ToOCILinuxNetDevices", there) == [written]
    assert go.call("FromOCILinuxNetDevices", written) == [there]
    assert oci.net_devices_from_oci(written) == devices


@MANY
@given(messages(nri_pb2.LinuxSeccomp))
def test_seccomp(go: GoHelpers, seccomp: nri_pb2.LinuxSeccomp) -> None:
    written = oci.seccomp_to_oci(seccomp)
    assert go.call("FromOCILinuxSeccomp", written) == [wire(seccomp)]
    assert oci.seccomp_from_oci(written) == seccomp
    (syscalls,) = go.call("ToOCILinuxSyscalls", [wire(item) for item in seccomp.syscalls])
    for syscall in syscalls:
        # Go writes an empty list as null.
        syscall["names"] = syscall["names"] or []
    assert written.get("syscalls", []) == syscalls


@MANY
@given(st.lists(st.text("ab=é", max_size=5), max_size=3))
def test_env(go: GoHelpers, env: list[str]) -> None:
    entries = oci.env_from_oci(env)
    assert go.call("FromOCIEnv", env) == [[wire(entry) for entry in entries]]
    theirs = [go.call("KeyValue.ToOCI", wire(entry))[1] for entry in entries]
    assert oci.env_to_oci(entries) == theirs


OPTIONS = ["ro", "private", "rprivate", "shared", "rshared", "slave", "rslave"]


@MANY
@given(st.lists(st.sampled_from(OPTIONS), max_size=4))
def test_mount_propagation(go: GoHelpers, options: list[str]) -> None:
    mount = nri_pb2.Mount(options=options)
    assert go.call("MountPropagation", wire(mount)) == [api.mount_propagation(mount) or ""]


@given(st.booleans(), st.booleans())
def test_hooks_that_are_set(go: GoHelpers, some: bool, others: bool) -> None:
    hooks = nri_pb2.Hooks()
    if some:
        hooks.prestart.add(path="/a")
    if others:
        hooks.poststop.add(path="/b")
    _, theirs = go.call("Hooks.Hooks", wire(hooks))
    assert (api.strip(hooks) is None) == (theirs is None) == (not some and not others)
