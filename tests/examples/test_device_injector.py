"""The features that the predecessor of the device injector lacks; test_reference.py has the rest."""

from __future__ import annotations

import dataclasses

import pytest

from examples.device_injector.plugin import AllowedMount, Config, DeviceInjector
from nri_sync.testing import FakeRuntime, StartPlugin, make_container, make_pod

__all__: list[str] = []


def created(runtime: FakeRuntime, key: str, text: str) -> object:
    """Return the adjustment as text, or the error."""
    pod = make_pod("web", namespace="shop", annotations={key: text})
    runtime.run_pod(pod)
    result = runtime.create_container(pod, make_container(pod, "c0"), check=False)
    return str(result.error or result.adjustment)


@pytest.fixture(autouse=True)
def plugin(nri_plugin: StartPlugin) -> DeviceInjector:
    plugin = DeviceInjector()
    plugin.config = Config(
        devices=["c 0:0", "b 7:*", "/dev/null"],
        cdi_devices=["vendor.com/gpu=*"],
        mounts=[
            AllowedMount("/home"),
            AllowedMount("/srv/[x]", read_only=False),
            AllowedMount("tmpfs"),
        ],
        network_devices=["dummy*"],
        sysctls=["net.core.*"],
        io_classes=["IOPRIO_CLASS_FAST", "IOPRIO_CLASS_BE"],
        scheduling_policies=["SCHED_FIVO", "SCHED_FIFO"],
        memory_policies=["MPOL_BIND"],
    )
    nri_plugin(plugin)
    return plugin


@pytest.mark.parametrize(
    ("key", "text", "says"),
    [
        ("devices", "[{pth: /dev/a, type: c}]", '[0].pth: unknown key; did you mean "path"?'),
        ("devices", "[{path: /dev/a}]", "[0].type: missing; expected text"),
        ("io-priority", "{class: IOPRIO_CLASS_FAST}", "IOPRIO_CLASS_FAST"),
        ("scheduling-policy", "{policy: SCHED_FIVO}", "SCHED_FIVO"),
        ("scheduling-policy", "{policy: SCHED_FIFO, flags: [SCHED_FLAG]}", "SCHED_FLAG"),
        ("memory-policy", "{mode: MPOL_BIND, flags: [MPOL_F]}", "MPOL_F"),
        ("sysctl", "{net.core.somaxconn: [1]}", "expected text, not [1]"),
    ],
)
def test_a_slip_is_an_error(key: str, text: str, says: str, nri_runtime: FakeRuntime) -> None:
    assert says in str(created(nri_runtime, f"{key}.noderesource.dev", text))


def test_an_error_names_the_pod_and_the_annotation(nri_runtime: FakeRuntime) -> None:
    found = created(nri_runtime, "devices.noderesource.dev/container.c0", "/dev/fuse")
    assert (
        "pod shop/web: annotation devices.noderesource.dev/container.c0: '/dev/fuse': expected a list"
        in str(found)
    )


@pytest.mark.parametrize("mode", ["0666", "0o666", '"0666"', '"0o666"', "438"])
def test_permissions(mode: str, nri_runtime: FakeRuntime) -> None:
    text = f"[{{path: /dev/a, type: c, file_mode: {mode}}}]"
    assert "value: 438" in str(created(nri_runtime, "devices.noderesource.dev", text))


@pytest.mark.parametrize("key", ["io-priority", "scheduling-policy", "memory-policy", "mounts"])
def test_an_empty_text_is_nothing_for_that_container(key: str, nri_runtime: FakeRuntime) -> None:
    assert created(nri_runtime, f"{key}.noderesource.dev/container.c0", "") == ""


def test_a_misspelt_annotation_is_logged(
    nri_runtime: FakeRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    assert created(nri_runtime, "device.noderesource.dev", "[]") == ""
    assert "did you mean devices.noderesource.dev?" in caplog.text


ALLOWED = [
    ("devices", "[{path: /dev/zero, type: c, major: 1, minor: 3}]"),  # the numbers are /dev/null's
    ("devices", "[{path: /dev/a, type: b, major: 7, minor: 5}]"),
    ("cdi-devices", "[vendor.com/gpu=0]"),
    ("mounts", "[{source: /home, destination: /a, type: bind, options: [ro]}]"),
    ("mounts", "[{source: /home, destination: /a, options: [bind, rw, ro]}]"),
    ("mounts", "[{source: '/srv/[x]', destination: /a, type: none, options: [bind]}]"),
    ("mounts", "[{destination: /a, type: tmpfs}]"),
    ("network-devices", "[{hostIf: dummy0}]"),
    ("sysctl", "{net.core.somaxconn: 1}"),
    ("io-priority", "{class: IOPRIO_CLASS_BE}"),
    ("scheduling-policy", "{policy: SCHED_FIFO, priority: 1}"),
    ("memory-policy", "{mode: MPOL_BIND, nodes: 0}"),
]
REFUSED = [
    ("devices", "[{path: /dev/null, type: b, major: 8}]", "device 'b 8:0'"),
    ("devices", "[{path: /dev/null, type: b, major: 1, minor: 3}]", "device 'b 1:3'"),
    ("devices", "[{path: /dev/null, type: u, major: 1, minor: 3}]", "device 'u 1:3'"),
    ("cdi-devices", "[other.com/gpu=0]", "CDI device 'other.com/gpu=0'"),
    ("cdi-devices", '["vendor.com/gpu=0\\nx"]', "CDI device"),
    ("mounts", "[{source: /, destination: /a, type: bind}]", "mount of '/'"),
    ("mounts", "[{source: /home/x, destination: /a, type: bind}]", "mount of '/home/x'"),
    ("mounts", "[{source: /srv/x, destination: /a, type: bind}]", "mount of '/srv/x'"),
    (
        "mounts",
        "[{source: /etc, destination: /a, type: tmpfs, options: [bind]}]",
        "of type 'tmpfs'",
    ),
    ("mounts", "[{source: /home, destination: /a, type: overlay}]", "of type 'overlay'"),
    ("mounts", "[{source: /home, destination: /a, type: bind}]", "has to be read-only"),
    ("mounts", "[{source: /home, destination: /a, type: bind, options: [ro, rw]}]", "read-only"),
    ("mounts", "[{source: /home, destination: /a, type: bind, options: [rbind, ro]}]", "read-only"),
    ("mounts", "[{source: /home, destination: /a, type: bind, options: [ro, rshared]}]", "shared"),
    ("network-devices", "[{hostIf: eth0}]", "network device 'eth0'"),
    ("sysctl", "{kernel.panic: 1}", "sysctl 'kernel.panic'"),
    ("io-priority", "{class: IOPRIO_CLASS_RT}", "I/O class 'IOPRIO_CLASS_RT'"),
    ("scheduling-policy", "{policy: SCHED_RR}", "scheduling policy 'SCHED_RR'"),
    ("memory-policy", "{mode: MPOL_LOCAL}", "memory policy 'MPOL_LOCAL'"),
]


@pytest.mark.parametrize(("key", "text", "says"), REFUSED)
def test_a_forbidden_device_fails_the_container(
    key: str, text: str, says: str, nri_runtime: FakeRuntime
) -> None:
    assert says in str(created(nri_runtime, f"{key}.noderesource.dev", text))


@pytest.mark.parametrize(("key", "text"), ALLOWED)
def test_an_allowed_device_is_injected(
    key: str, text: str, plugin: DeviceInjector, nri_runtime: FakeRuntime
) -> None:
    found = str(created(nri_runtime, f"{key}.noderesource.dev", text))
    assert found
    assert "error" not in found
    allowed, plugin.config = plugin.config, Config()
    assert "not among those that pods may have" in str(
        created(nri_runtime, f"{key}.noderesource.dev", text)
    )
    plugin.config = dataclasses.replace(allowed, namespaces=["ml"])
    assert "the namespace 'shop' is not" in str(
        created(nri_runtime, f"{key}.noderesource.dev", text)
    )
