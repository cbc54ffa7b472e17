"""What the RDT plugin says of mistakes; test_reference.py has the rest."""

from __future__ import annotations

import pytest

from examples.rdt.plugin import Rdt
from nri_sync.testing import make_container, make_pod

__all__: list[str] = []


def test_only_what_is_annotated_is_set() -> None:
    pod = make_pod(annotations={"schemata.rdt.noderesource.dev/container.c0": "MB:0=50, L3:0=f"})
    rdt = Rdt().create_container(pod, make_container(pod, "c0")).message.linux.rdt
    assert list(rdt.schemata.value) == ["MB:0=50", "L3:0=f"]
    assert not rdt.HasField("clos_id")
    assert not rdt.HasField("enable_monitoring")


def test_neither_true_nor_false() -> None:
    pod = make_pod(annotations={"enablemonitoring.rdt.noderesource.dev/container.c0": "yes"})
    with pytest.raises(ValueError, match=r"enablemonitoring.*'yes': neither true nor false"):
        Rdt().create_container(pod, make_container(pod, "c0"))


def test_what_is_unknown_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    Rdt().run_pod_sandbox(make_pod(annotations={"colour.rdt.noderesource.dev/container.c0": "red"}))
    assert "colour.rdt.noderesource.dev/container.c0 is not understood" in caplog.text
