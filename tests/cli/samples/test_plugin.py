"""The plugin of ``nri-sync demo``."""

from __future__ import annotations

import pytest

from nri_sync.cli.samples.plugin import Annotated
from nri_sync.testing import Changes, make_container, make_pod

__all__: list[str] = []


def changes(**annotations: str) -> Changes:
    pod = make_pod(annotations={key.replace("__", "."): text for key, text in annotations.items()})
    return Changes(Annotated().create_container(pod, make_container(pod, name="app")))


def test_requests_of_annotations() -> None:
    found = changes(device__example__com="/dev/fuse", env__example__com="A=b=c")
    assert found.env == {"A": "b=c"}
    assert [device.path for device in found.adjustment.linux.devices] == ["/dev/fuse"]


def test_nothing_without_them() -> None:
    assert changes().empty


def test_no_variable() -> None:
    with pytest.raises(ValueError, match="expected NAME=value, not 'A'"):
        changes(env__example__com="A")
