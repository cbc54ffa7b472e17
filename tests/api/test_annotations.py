from __future__ import annotations

import pytest

from nri_sync.api import (
    REQUIRED_PLUGINS,
    PodSandbox,
    effective_annotation,
    format_required_plugins,
    parse_required_plugins,
    required_plugins,
)

__all__: list[str] = []


def test_the_most_specific_form_wins() -> None:
    pod = PodSandbox()
    assert effective_annotation(pod, "key", "c") is None
    pod.annotations["key"] = "1"
    assert effective_annotation(pod, "key", "c") == "1"
    pod.annotations["key/pod"] = "2"
    assert effective_annotation(pod, "key", "c") == "2"
    pod.annotations["key/container.c"] = ""
    assert effective_annotation(pod, "key", "c") == ""
    assert effective_annotation(pod, "key", "d") == "2"
    assert effective_annotation(pod, "other", "c") is None
    assert len(pod.annotations) == 3, "asking must not add any"


def test_required_plugins() -> None:
    pod = PodSandbox()
    assert required_plugins(pod, "c") == []
    pod.annotations[REQUIRED_PLUGINS] = '["a", "b"]'
    pod.annotations[f"{REQUIRED_PLUGINS}/container.d"] = "[]"
    assert required_plugins(pod, "c") == ["a", "b"]
    assert required_plugins(pod, "d") == []


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ('["my-plugin"]', ["my-plugin"]),
        ("[ plugin ]", ["plugin"]),
        ("[a, 'b', \"c\",]", ["a", "b", "c"]),
        ("- a\n- 'b'\n\n", ["a", "b"]),
        ("  - 10-a", ["10-a"]),
        ("[1, yes]", ["1", "yes"]),
        ("[]", []),
        ("[ ]", []),
        ("", []),
        ("  \n", []),
        ("null", []),
        ("~", []),
    ],
)
def test_lists(value: str, names: list[str]) -> None:
    assert parse_required_plugins(value) == names


@pytest.mark.parametrize(
    "value", ["a", '"a"', "{a: b}", "[a", "[a, , b]", "[[a]]", "[,]", "a: b", "-a", "[a b]", "['a]"]
)
def test_values_that_are_not_lists(value: str) -> None:
    with pytest.raises(ValueError, match=f"^{REQUIRED_PLUGINS} ") as error:
        parse_required_plugins(value)
    assert repr(value) in str(error.value)


def test_formatting() -> None:
    assert format_required_plugins(["a", "b"]) == '["a", "b"]'
    assert parse_required_plugins(format_required_plugins(("a", "10-b.c"))) == ["a", "10-b.c"]
    with pytest.raises(TypeError, match="required plugins must be a sequence of str"):
        format_required_plugins("a")
