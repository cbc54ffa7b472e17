"""Fuzz target: each format of a short text that authors of pods and users write, such as an annotation.

The first byte selects the format. The result is a value, or a ValueError with a short text.
"""

from __future__ import annotations

from typing import Any, Callable

from nri_sync import EventMask, api, kit
from nri_sync.api.version import infer_nri_version
from nri_sync.kit.logs.masking import Mask
from nri_sync.text import printable

__all__ = ["ERROR_MAX", "FORMATS", "one_input"]

#: The maximum length of an error: it quotes at most three texts of 300 characters each.
ERROR_MAX = 2000


def _selector(text: str) -> None:
    found = kit.LabelSelector.parse(text)
    assert kit.LabelSelector.parse(str(found)) == found
    found.matches({"a": "1"})


def _quantity(text: str) -> None:
    found = kit.Quantity.parse(text)
    assert kit.Quantity.parse(str(found)) == found
    float(found), int(found), found.milli


def _image(text: str) -> None:
    found = kit.ImageReference.parse(text)
    assert kit.ImageReference.parse(str(found)) == found


def _cpus(text: str) -> None:
    found = kit.parse_cpus(text)
    assert kit.parse_cpus(kit.format_cpus(found)) == found


def _pattern(text: str) -> None:
    pattern, _, searched = text.partition("\n")
    kit.Pattern(pattern).search(searched)


def _mask(text: str) -> None:
    assert list(Mask(()).items(text.split(" "))) == text.split(" ")
    assert len(list(Mask().items(text.split(" ")))) == len(text.split(" "))


def _printable(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert printable(shown, None) == shown


def _required(text: str) -> None:
    names = api.parse_required_plugins(text)
    if all(names):
        assert api.parse_required_plugins(api.format_required_plugins(names)) == names


#: Selected by the first byte of an input, modulo their number.
FORMATS: tuple[Callable[[str], Any], ...] = (
    kit.parse_json, kit.parse_yaml, kit.parse_bool, kit.parse_int, kit.parse_list, _cpus, kit.parse_duration,
    _quantity, _selector, _image, _pattern, EventMask.parse, _required, api.parse_file_name,
    kit.expand_slice, kit.cgroup_path, kit.cgroup_name, kit.pod_uid_of_cgroup, _mask, _printable,
    lambda text: infer_nri_version("containerd", text), lambda text: infer_nri_version("cri-o", text),
)  # fmt: skip


def one_input(data: bytes) -> None:
    if not data:
        return
    parse = FORMATS[data[0] % len(FORMATS)]
    try:
        parse(data[1:].decode(errors="surrogateescape"))
    except ValueError as error:
        assert len(str(error)) <= ERROR_MAX  # noqa: PT017
