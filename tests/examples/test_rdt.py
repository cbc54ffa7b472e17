"""The RDT plugin's messages for mistakes; test_reference.py has the rest."""

from __future__ import annotations

import pytest

from examples.rdt.plugin import Config, Rdt
from nri_sync.testing import make_container, make_pod

__all__: list[str] = []


def test_only_annotated_fields_are_set() -> None:
    pod = make_pod(annotations={"schemata.rdt.noderesource.dev/container.c0": "MB:0=50, L3:0=f"})
    plugin = Rdt()
    plugin.config = Config(schemata=["MB:*", "L3:*"])
    rdt = plugin.create_container(pod, make_container(pod, "c0")).message.linux.rdt
    assert list(rdt.schemata.value) == ["MB:0=50", "L3:0=f"]
    assert not rdt.HasField("clos_id")
    assert not rdt.HasField("enable_monitoring")


def test_neither_true_nor_false() -> None:
    pod = make_pod(annotations={"enablemonitoring.rdt.noderesource.dev/container.c0": "yes"})
    with pytest.raises(ValueError, match=r"enablemonitoring.*'yes': neither true nor false"):
        Rdt().create_container(pod, make_container(pod, "c0"))


def test_an_unknown_annotation_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    Rdt().run_pod_sandbox(make_pod(annotations={"colour.rdt.noderesource.dev/container.c0": "red"}))
    assert "colour.rdt.noderesource.dev/container.c0 is not understood" in caplog.text


@pytest.mark.parametrize(
    ("key", "text", "says"),
    [
        ("closid", "gold", "RDT class 'gold'"),
        ("closid", "silver/../gold", "RDT class 'silver/../gold'"),
        ("schemata", "L3:0=f,MB:0=90", "RDT schema 'MB:0=90'"),
    ],
)
def test_a_forbidden_class_schema_or_namespace_is_refused(key: str, text: str, says: str) -> None:
    plugin = Rdt()
    plugin.config = Config(classes=["silver*"], schemata=["L3:0=f"])
    pod = make_pod(annotations={f"{key}.rdt.noderesource.dev/container.c0": text})
    with pytest.raises(PermissionError, match=f"the {says} is not among those"):
        plugin.create_container(pod, make_container(pod, "c0"))
    plugin.config = Config(["ml"], ["*"], ["*"])
    with pytest.raises(PermissionError, match="the namespace 'default' is not"):
        plugin.create_container(pod, make_container(pod, "c0"))
