from __future__ import annotations

import importlib.util
import logging
import re
import time
from dataclasses import dataclass
from typing import Any, Callable

import pytest

from nri_sync.api import Container, PodSandbox
from nri_sync.kit.fields.annotations import (
    Annotation,
    Annotations,
    document_of,
    list_of,
    one_of,
    parse_bool,
    parse_int,
    parse_json,
    parse_list,
    parse_yaml,
)
from nri_sync.kit.fields.cpu import parse_cpus
from nri_sync.kit.fields.quantity import Quantity

__all__: list[str] = []

NGINX = Container(name="nginx")


@dataclass
class Device:
    path: str
    major: int = 0


def a_pod(**annotations: str) -> PodSandbox:
    return PodSandbox(namespace="shop", name="web", annotations=annotations)


def test_the_most_specific_form_counts() -> None:
    note = Annotations("example.com").declare("note", str)
    pod = a_pod()
    assert note.get(pod, NGINX) is None
    pod.annotations["note.example.com"] = "1"
    assert note.get(pod, NGINX) == note.get(pod) == "1"
    pod.annotations["note.example.com/pod"] = "2"
    assert note.get(pod, NGINX) == note.get(pod) == "2"
    pod.annotations["note.example.com/container.nginx"] = ""
    assert note.get(pod, NGINX) == "", "an empty text counts"
    assert note.get(pod, Container(name="other")) == note.get(pod) == "2"
    assert note.find(pod, NGINX) == ("note.example.com/container.nginx", "")
    assert len(pod.annotations) == 3, "asking must not add any"


def test_specificity_comes_before_the_order_of_domains() -> None:
    # As in the reference's device-injector, with its two domains.
    devices = Annotations("noderesource.dev", "nri.io").declare("devices", str)
    pod = a_pod()
    for key in ("devices.nri.io", "devices.noderesource.dev", "devices.nri.io/pod", "devices.noderesource.dev/pod",
                "devices.nri.io/container.nginx", "devices.noderesource.dev/container.nginx"):  # fmt: skip
        pod.annotations[key] = key
        assert devices.get(pod, NGINX) == key


def test_bare_names() -> None:
    swap = Annotations("memory-qos.nri.io", forms=Annotations.BARE).declare("memory.swap.max", str)
    pod = a_pod(
        **{
            "memory.swap.max.memory-qos.nri.io": "0",
            "memory.swap.max.memory-qos.nri.io/nginx": "max",
        }
    )
    assert swap.get(pod, NGINX) == "max"
    assert swap.get(pod, Container(name="other")) == swap.get(pod) == "0"


def test_the_usual_form_in_kubernetes() -> None:
    annotations = Annotations(
        "cache.example.com", "cache.example.org", forms=Annotations.KUBERNETES, exclusive=True
    )
    size = annotations.declare("size", Quantity.parse)
    pod = a_pod(**{"cache.example.com/size": "1Gi", "cache.example.org/size.container.nginx": "1"})
    assert size.get(pod, NGINX) == Quantity.parse("1")
    assert size.get(pod, Container(name="other")) == size.get(pod) == Quantity.parse("1Gi")
    assert size.keys == ("cache.example.com/size", "cache.example.org/size")
    assert annotations.misspelt(pod) == {}
    assert misspelt(
        annotations,
        "cache.example.com/sise",
        "cache.example.com/sizes.container.nginx",
        "size.cache.example.com",
        "size.cache.example.com/container.nginx",
        "cache.exmaple.com/size",
        "cache.exmaple.com/size.container.nginx",
        "cache.example.com/unlike",
        "other.example.com/size",
    ) == {
        "cache.example.com/sise": "cache.example.com/size",
        "cache.example.com/sizes.container.nginx": "cache.example.com/size.container.nginx",
        "size.cache.example.com": "cache.example.com/size",
        "size.cache.example.com/container.nginx": "cache.example.com/size.container.NAME",
        "cache.exmaple.com/size": "cache.example.com/size",
        "cache.exmaple.com/size.container.nginx": "cache.example.com/size.container.nginx",
        "cache.example.com/unlike": None,
    }


@pytest.mark.parametrize(
    ("forms", "says"),
    [
        ("{key}", "in a tuple"),
        ((), "in a tuple"),
        ((1,), "in a tuple"),
        (("{key}", "{key}"), "twice"),
        (("{key}", "{key}/{container}"), "contain {container}"),
        (("{kye}",), "it may contain {key}"),
        (("{}",), "it may contain {key}"),
        (("{key!r}",), "it may contain {key}"),
        (("{key:>40}",), "it may contain {key}"),
        (("{key.upper}",), "it may contain {key}"),
        (("{key}{key}",), "it may contain {key}"),
        (("{key",), "'{key'"),
        (("cpus",), "needs {key}"),
        (("{name}",), "needs {key}"),
        (("{key}/{name}",), "needs {key}"),
        (("{domain}/x",), "needs {key}"),
    ],
)
def test_invalid_forms_are_refused(forms: Any, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        Annotations("example.com", forms=forms)


@pytest.mark.parametrize(
    ("name", "domain", "forms"),
    [
        ("", "example.com", Annotations.KUBERNETES),
        ("cache size", "example.com", Annotations.UPSTREAM),
        ("size", "Example.com", Annotations.KUBERNETES),
        ("size", "example..com", Annotations.KUBERNETES),
        ("size", "example.com/cache", Annotations.KUBERNETES),
        ("example.com/size", "example.com", Annotations.KUBERNETES),
        ("-size", "example.com", Annotations.KUBERNETES),
        ("x" * 64, "example.com", Annotations.KUBERNETES),
        ("size", f"{'a.' * 130}com", Annotations.KUBERNETES),
        ("size", "example.com\n", Annotations.UPSTREAM),
    ],
)
def test_keys_that_kubernetes_refuses(name: str, domain: str, forms: Any) -> None:
    annotations = Annotations(domain, forms=forms)
    with pytest.raises(ValueError, match="which Kubernetes refuses"):
        annotations.declare(name, str)


def test_a_container_whose_name_is_not_known_yet() -> None:
    note = Annotations("example.com").declare("note", str)
    pod = a_pod(**{"note.example.com/container.nginx": "1", "note.example.com/container.": "2"})
    assert note.get(pod, Container(labels={"io.kubernetes.container.name": "nginx"})) == "1"
    assert note.get(pod, Container()) is None


def test_types_and_defaults() -> None:
    annotations = Annotations("example.com")
    cpus = annotations.declare("cpus", parse_cpus)
    boost: Annotation[bool] = annotations.declare("boost", parse_bool, default=False)
    memory = annotations.declare("memory", Quantity.parse, default=Quantity())
    assert boost.get(a_pod()) is False
    pod = a_pod(
        **{"cpus.example.com": "0-1", "boost.example.com": "T", "memory.example.com": "1Gi"}
    )
    assert cpus.get(pod) == frozenset({0, 1})
    assert boost.get(pod) is True
    assert int(memory.get(pod)) == 1 << 30
    assert list(annotations) == [cpus, boost, memory]
    with pytest.raises(ValueError, match=r"'cpus' of example\.com is declared twice"):
        annotations.declare("cpus", str)


def test_an_error_names_pod_key_and_text() -> None:
    cpus = Annotations("example.com").declare("cpus", parse_cpus)
    pod = a_pod(**{"cpus.example.com/container.nginx": "7-3"})
    with pytest.raises(ValueError, match="shop/web") as error:
        cpus.get(pod, NGINX)
    assert str(error.value).startswith(
        "pod shop/web: annotation cpus.example.com/container.nginx: '7-3': '7-3' in the CPU list"
    )
    pod.annotations["cpus.example.com"] = "x" * 10000
    with pytest.raises(ValueError, match="shop/web") as error:
        Annotations("example.com").declare("cpus", parse_bool).get(pod)
    assert len(str(error.value)) < 250


def misspelt(annotations: Annotations, *keys: str) -> dict[str, str | None]:
    return annotations.misspelt(PodSandbox(annotations=dict.fromkeys(keys, "")))


@pytest.fixture
def ours() -> Annotations:
    annotations = Annotations("example.com", "old.example.org")
    annotations.declare("cpus", str)
    annotations.declare("devices", str)
    return annotations


@pytest.mark.parametrize(
    "key",
    [
        "cpus.example.com",
        "cpus.example.com/pod",
        "cpus.example.com/container.nginx",
        "devices.old.example.org",
        "team.example.com",
        "example.com/owner",
        "kubernetes.io/config.source",
        "cpus.example.net.of-others",
        "devices.noderesource.dev",
        "cpus",
    ],
)
def test_dissimilar_keys_are_no_misspellings(ours: Annotations, key: str) -> None:
    assert misspelt(ours, key) == {}


@pytest.mark.parametrize(
    ("key", "likely"),
    [
        ("cpu.example.com", "cpus.example.com"),
        ("cups.example.com", "cpus.example.com"),
        ("device.old.example.org/pod", "devices.old.example.org/pod"),
        ("cpu.example.com/container.nginx", "cpus.example.com/container.nginx"),
        ("cpus.example.com/containers.nginx", "cpus.example.com/container.NAME"),
        ("cpus.example.com/nginx", "cpus.example.com/container.NAME"),
        ("example.com/cpus", "cpus.example.com"),
        ("cpus.exmaple.com", "cpus.example.com"),
        ("cpus.exmaple.com/pod", "cpus.example.com/pod"),
    ],
)
def test_the_likely_key_is_named(ours: Annotations, key: str, likely: str) -> None:
    assert misspelt(ours, key, "cpus.example.com") == {key: likely}


def test_a_domain_of_ones_own() -> None:
    annotations = Annotations("example.com", exclusive=True)
    annotations.declare("cpus", str)
    assert misspelt(annotations, "team.example.com", "example.com/x", "x.example.org") == {
        "team.example.com": None,
        "example.com/x": None,
    }


def test_warnings(caplog: pytest.LogCaptureFixture) -> None:
    annotations = Annotations("example.com", exclusive=True)
    annotations.declare("cpus", str)
    with caplog.at_level(logging.WARNING, "nri_sync.kit.fields"):
        annotations.warn(a_pod(**{"cpus.example.com": ""}))
        assert caplog.messages == []
        annotations.warn(a_pod(**{"cpu.example.com": ""}))
        annotations.warn(a_pod(**{"zone.example.com": ""}))
    assert caplog.messages == [
        "pod shop/web: annotation cpu.example.com is not understood; did you mean cpus.example.com?",
        "pod shop/web: annotation zone.example.com is not understood; known are cpus.example.com",
    ]


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_bool, "true", True),
        (parse_bool, "0", False),
        (parse_int, "-12", -12),
        (parse_list, "a, b", ["a", "b"]),
        (parse_list, " ", []),
        (parse_list, '["a", "b,c"]', ["a", "b,c"]),
        (list_of(parse_int), "1,2", [1, 2]),
        (list_of(parse_int), "[1, 2]", [1, 2]),
        (one_of("low", "high"), "low", "low"),
        (parse_json, '{"a": [1, null]}', {"a": [1, None]}),
        (parse_json, "", {}),
        (parse_yaml, '[{"path": "/dev/fuse"}]', [{"path": "/dev/fuse"}]),
        (document_of(list[Device]), '[{"path": "/dev/fuse"}]', [Device("/dev/fuse")]),
        (document_of(Device), '{"path": "/dev/fuse", "major": 10}', Device("/dev/fuse", 10)),
        (document_of(dict[str, int]), '{"a": 1}', {"a": 1}),
        (document_of(list[Device]), " ", None),
    ],
)
def test_parsers(parse: Callable[[str], Any], text: str, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text", "says"),
    [
        (parse_bool, "yes", "neither true nor false"),
        (document_of(list[Device]), '[{"major": "x"}]', "path: missing; expected text"),
        (document_of(list[Device]), '[{"major": "x"}]', "major: expected a whole number"),
        (document_of(list[Device]), "{}", "expected a list, not "),
        (document_of(Device), '{"path"', "is not "),
        (parse_bool, "", "neither true nor false"),
        (parse_int, "1.5", "not an integer"),
        (parse_int, " 1", "not an integer"),
        (parse_int, "1_000", "not an integer"),
        (parse_list, "a,,b", "an item of the list is empty"),
        (parse_list, "[[1]]", "not a list of texts"),
        (list_of(parse_int), "1,x", "not an integer"),
        (one_of("low", "high"), "mid", "not one of low, high"),
        (parse_json, "{", "is not JSON"),
        (parse_json, '{"a": 1, "a": 2}', "twice"),
    ],
)
def test_parsers_refuse_an_invalid_text(parse: Callable[[str], Any], text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse(text)


def test_yaml_needs_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "- path: /dev/fuse\n  type: c\n"
    if importlib.util.find_spec("yaml") is None:
        with pytest.raises(ValueError, match="PyYAML"):
            parse_yaml(text)
    else:
        assert parse_yaml(text) == [{"path": "/dev/fuse", "type": "c"}]
        assert parse_list("- a\n- b\n") == ["a", "b"]
        with pytest.raises(ValueError, match="is not YAML"):
            parse_yaml("[")
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert parse_yaml('["a"]') == ["a"], "JSON is read without it"


# Values that any user with the right to create pods can write into an annotation.
BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
)


@pytest.mark.parametrize(
    ("parse", "text", "said"),
    [
        (parse_yaml, BOMB, "has more than the 20,000 values that are allowed, with its aliases"),
        (document_of(dict[str, int]), BOMB, "has more than the 20,000 values"),
        (parse_list, "- &a [x]\n" + "- *a\n" * 60_000, "has more than the 262,144 bytes"),
        (document_of(list[Device]), "- &a {path: [x]}\n" + "- *a\n" * 900, "and 898 more problems"),
        (document_of(list[int]), f"[{'x' * 100_000}]", "expected a whole number"),
        (document_of(dict[str, int]), "".join(f"{'k' * 900}{n}: x\n" for n in range(90)), "more problems"),
        (parse_yaml, "a: &a [*a]", "contains itself"),
        (parse_yaml, "[" * 900, "is nested too deeply"),
        (parse_json, "[" * 90_000, "is nested too deeply"),
        (parse_json, "{" + "".join(f'"k{n}": 1, ' for n in range(9000)) + '"k0": 1}', "twice"),
        (parse_json, f'"{"x" * 262_144}"', "has more than the 262,144 bytes that are allowed"),
    ],
)  # fmt: skip
def test_an_annotation_costs_little(parse: Callable[[str], Any], text: str, said: str) -> None:
    before = time.process_time()
    with pytest.raises(ValueError, match=re.escape(said)) as raised:
        parse(text)
    assert len(str(raised.value)) < 1000
    assert time.process_time() - before < 10
