"""Typed access to documents."""

from __future__ import annotations

from typing import Any, Callable

import pytest

from nri_sync.kit import Quantity
from nri_sync.testing.manifests.fields import Fields
from nri_sync.testing.manifests.model import ManifestError
from tests.testing.manifests import fields

__all__: list[str] = []


def test_present_fields_are_read() -> None:
    found = fields(
        {
            "text": "a", "flag": True, "number": 3, "numbers": [1, 2], "texts": ["a", "b"],
            "object": {"inner": {"text": "deep"}}, "objects": [{"text": "x"}],
            "strings": {"a": "1"}, "amounts": {"cpu": "500m", "memory": 1024}, "amount": "2",
        }
    )  # fmt: skip
    assert found.text("text") == found.required("text", "") == "a"
    assert found.flag("flag")
    assert found.integer("number") == 3
    assert found.integers("numbers") == [1, 2]
    assert found.texts("texts") == ["a", "b"]
    assert found.object("object", "inner").text("text") == "deep"
    assert [item.path for item in found.objects("objects")] == ["objects[0]"]
    assert found.strings("strings") == {"a": "1"}
    assert found.quantities("amounts") == {
        "cpu": Quantity.of_milli(500),
        "memory": Quantity.of(1024),
    }
    assert found.quantity("amount") == Quantity.of(2)
    assert "text" in found
    assert bool(found)


@pytest.mark.parametrize("data", [None, {}, {"key": None}])
def test_a_missing_field_reads_as_empty(data: object) -> None:
    found = fields(data)
    assert found.text("key", "missing") == "missing"
    assert found.flag("key", True)
    assert not found.flag("key")
    assert found.integer("key", 7) == 7
    assert not found.integers("key")
    assert not found.texts("key")
    assert not list(found.objects("key"))
    assert not found.object("key", "below")
    assert found.strings("key") == {}
    assert found.quantities("key") == {}
    assert found.quantity("key") == Quantity()
    assert "key" not in found


@pytest.mark.parametrize(
    ("read", "data", "text"),
    [
        (lambda f: f.text("k"), 1, "k: must be a text, not a whole number (1): write it in quotes"),
        (lambda f: f.flag("k"), "yes", "k: must be true or false, not a text (yes)"),
        (lambda f: f.integer("k"), True, "k: must be a whole number, not true or false (True)"),
        (lambda f: f.integer("k"), 1 << 63, f"k: {1 << 63} exceeds 64 bits"),
        (lambda f: f.integers("k"), [1, "x"], "k[1]: must be a whole number, not a text (x)"),
        (lambda f: f.texts("k"), ["a", 2.5], "k[1]: must be a text, not a number (2.5): write it in quotes"),
        (lambda f: f.texts("k"), {}, "k: must be a list, not an object"),
        (lambda f: f.object("k"), [], "k: must be an object, not a list"),
        (lambda f: f.object("k"), {None: 2}, "k: a key is null: write it in quotes"),
        (lambda f: f.texts("k"), ["a", None], "k[1]: must be a text, not null"),
        (lambda f: f.text("k"), [1], "k: must be a text, not a list"),
        (lambda f: f.flag("k"), "x" * 1000, f"k: must be true or false, not a text ({'x' * 60}..."),
        (lambda f: f.integer("k"), 1.5, "k: must be a whole number, not a number (1.5)"),
        (lambda f: f.integer("k"), 1e300, "k: must be a whole number, not a number (1e+300)"),
        (lambda f: list(f.objects("k")), ["x"], "k[0]: must be an object, not a text (x)"),
        (lambda f: list(f.objects("k")), [None], "k[0]: must be an object, not null"),
        (lambda f: f.required("k", "name it"), None, "k: is missing: name it"),
        (lambda f: f.quantities("k"), {"cpu": "1x"}, "k.cpu: '1x' is not a quantity"),
        (lambda f: f.quantities("k"), {"cpu": -1}, "k.cpu: -1 is negative"),
        (lambda f: f.quantities("k"), {"memory": 1 << 63}, f"k.memory: {1 << 63} exceeds 64 bits"),
    ],
)  # fmt: skip
def test_an_invalid_field_is_refused(
    read: Callable[[Fields], Any], data: object, text: str
) -> None:
    with pytest.raises(ManifestError) as raised:
        read(fields({"k": data}))
    assert str(raised.value).startswith(f"pod.yaml: {text}")


def test_keys_of_yaml_that_are_no_texts() -> None:
    """``sigs.k8s.io/yaml`` converts such keys for JSON in this way."""
    assert list(fields({8080: "a", True: "b", False: "c", 1.5: "d", 2.0: "e"}).data) == [
        "8080", "true", "false", "1.5", "2",
    ]  # fmt: skip


def test_y_and_n_are_booleans_where_a_flag_is_expected() -> None:
    found = fields({"a": "y", "b": "N", "c": "x"})
    assert (found.flag("a"), found.flag("b", True), found.text("a")) == (True, False, "y")
    with pytest.raises(ManifestError):
        found.flag("c")


def test_whole_numbers_that_yaml_reads_as_others() -> None:
    assert fields({"k": 8.0}).integer("k") == 8
