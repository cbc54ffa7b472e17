"""The ulimit adjuster's messages for mistakes; test_reference.py has the rest."""

from __future__ import annotations

import pytest

from examples.ulimit_adjuster.plugin import Config, UlimitAdjuster
from nri_sync import api
from nri_sync.testing import Changes, make_container, make_pod

__all__: list[str] = []

KEY = "ulimits.noderesource.dev/container.c0"


def adjusted(text: str) -> Changes:
    pod = make_pod(annotations={KEY: text})
    plugin = UlimitAdjuster()
    plugin.config = Config({"nofile": 4})
    return Changes(plugin.create_container(pod, make_container(pod, "c0")))


def test_limits() -> None:
    assert adjusted("[{type: nofile, hard: 4, soft: 2}]").rlimits == {
        "RLIMIT_NOFILE": api.POSIXRlimit(type="RLIMIT_NOFILE", hard=4, soft=2)
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[{type: nofiles}]", 'failed to parse type: "nofiles"; known are AS, CORE'),
        (
            "[{type: nofile, hard: 1, soft: 2}]",
            '"RLIMIT_NOFILE" must have hard limit >= soft limit',
        ),
        ("[{type: nofile, hard: 1, soft: -1}]", '"RLIMIT_NOFILE" must not be negative'),
        ("[{type: nofile, hrad: 1}]", 'hrad: unknown key; did you mean "hard"?'),
        ("[{hard: 1}]", "type: missing"),
    ],
)
def test_mistakes(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=KEY) as caught:
        adjusted(text)
    assert says in str(caught.value)


def test_an_annotation_of_the_whole_pod_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    UlimitAdjuster().run_pod_sandbox(make_pod(annotations={"ulimits.noderesource.dev/pod": "[]"}))
    assert "did you mean ulimits.noderesource.dev/container.NAME?" in caplog.text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[{type: nofile, hard: 5}]", "RLIMIT_NOFILE: pods may have 4, not 5"),
        ("[{type: memlock, hard: 1}]", "the ulimit 'RLIMIT_MEMLOCK' is not among those"),
    ],
)
def test_a_forbidden_ulimit_is_refused(text: str, says: str) -> None:
    with pytest.raises(PermissionError, match=says):
        adjusted(text)


def test_without_a_configuration_nothing_is_allowed() -> None:
    pod = make_pod(annotations={KEY: "[{type: core}]"})
    with pytest.raises(PermissionError, match="RLIMIT_CORE"):
        UlimitAdjuster().create_container(pod, make_container(pod, "c0"))
    with pytest.raises(ValueError, match="failed to parse type"):
        Config({"nofiles": 4})
