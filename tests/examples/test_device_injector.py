"""What the device injector does that its predecessor does not; test_reference.py has the rest."""

from __future__ import annotations

import pytest

from examples.device_injector.plugin import DeviceInjector
from nri_sync.testing import FakeRuntime, StartPlugin, make_container, make_pod

__all__: list[str] = []


def created(runtime: FakeRuntime, key: str, text: str) -> object:
    """The adjustment, as text; or the error."""
    pod = make_pod("web", namespace="shop", annotations={key: text})
    runtime.run_pod(pod)
    result = runtime.create_container(pod, make_container(pod, "c0"), check=False)
    return str(result.error or result.adjustment)


@pytest.fixture(autouse=True)
def _plugin(nri_plugin: StartPlugin) -> None:
    nri_plugin(DeviceInjector())


@pytest.mark.parametrize(
    ("key", "text", "says"),
    [
        ("devices", "[{pth: /dev/a, type: c}]", '[0].pth: unknown key; is "path" meant?'),
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
