"""The facts of a stub about the runtime."""

from __future__ import annotations

import pytest

from nri_sync.api import EventMask
from nri_sync.plugin.facts import Facts
from tests.plugin.harness import configuration

__all__: list[str] = []

DEFAULTS = Facts(EventMask.RUN_POD_SANDBOX, 7.0)


def test_before_any_request() -> None:
    expected = (EventMask.RUN_POD_SANDBOX, 7.0, 2.0, "", "", "unknown", EventMask(0))
    assert tuple(DEFAULTS) == expected


def test_all_fields_are_sent() -> None:
    request = configuration(
        runtime_name="containerd",
        runtime_version="v2.4.0",
        registration_timeout=1500,
        request_timeout=250,
        NRI_version="v0.12.5",
    )
    told = (1.5, 0.25, "containerd", "v2.4.0", "v0.12.5")
    expected = (EventMask.RUN_POD_SANDBOX, *told, EventMask(0))
    assert DEFAULTS.with_configure(request, DEFAULTS) == expected


def test_the_shortest_timeouts() -> None:
    request = configuration(registration_timeout=1, request_timeout=1)
    facts = DEFAULTS.with_configure(request, DEFAULTS)
    assert (facts.registration_timeout, facts.request_timeout) == (0.001, 0.001)


@pytest.mark.parametrize("timeout", [0, -1])
def test_timeouts_that_are_not_sent(timeout: int) -> None:
    earlier = DEFAULTS._replace(registration_timeout=1.0, request_timeout=1.0)
    request = configuration(registration_timeout=timeout, request_timeout=timeout)
    facts = earlier.with_configure(request, DEFAULTS)
    # The defaults, and not the values of the runtime before.
    assert (facts.registration_timeout, facts.request_timeout) == (7.0, 2.0)


@pytest.mark.parametrize(
    ("name", "version", "told", "expected"),
    [
        ("containerd", "v2.2.0", "", "v0.10.0"),
        ("containerd", "2.2.0", "", "v0.10.0"),
        ("containerd", "v1.7.16", "", "v0.6.1"),
        ("cri-o", "1.34.2", "", "v0.10.0"),
        ("cri-o", "v1.34.2", "", "v0.10.0"),
        ("cri-o", "1.34.2", "v0.12.0", "v0.12.0"),
        ("cri-o", "1.34.2", "(devel)", "v0.10.0"),
        ("containerd", "v2.2.0", "0.0.0-unknown", "v0.10.0"),
        ("someone", "v2.2.0", "", "unknown"),
        ("containerd", "", "", "unknown"),
        ("containerd", "v1.6.9", "", "unknown"),
    ],
)
def test_the_nri_version_is_sent_or_inferred(
    name: str, version: str, told: str, expected: str
) -> None:
    request = configuration(runtime_name=name, runtime_version=version, NRI_version=told)
    assert DEFAULTS.with_configure(request, DEFAULTS).runtime_nri_version == expected


def test_the_events_stay() -> None:
    assert (
        DEFAULTS.with_configure(configuration(), Facts(EventMask.ALL, 1.0)).events
        == DEFAULTS.events
    )
