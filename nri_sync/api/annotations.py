"""Pod annotations that are meant for plugins.

``example.com`` for the pod, ``example.com/pod`` likewise, and ``example.com/container.NAME`` for
one of its containers, are the forms of one annotation, the last being the most specific.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from nri_sync.api import _check
from nri_sync.api.nri_pb2 import PodSandbox

__all__ = [
    "REQUIRED_PLUGINS",
    "effective_annotation",
    "format_required_plugins",
    "parse_required_plugins",
    "required_plugins",
]

#: The annotation that names the plugins without which a container must not be created.
REQUIRED_PLUGINS = "required-plugins.noderesource.dev"


def effective_annotation(pod: PodSandbox, key: str, container: str) -> str | None:
    """The value of an annotation that counts for a container of a pod, or None if it has none.

    The most specific form wins, also with an empty value. ``container`` is the container's name.
    """
    for form in (f"{key}/container.{container}", f"{key}/pod", key):
        if form in pod.annotations:
            return pod.annotations[form]
    return None


def required_plugins(pod: PodSandbox, container: str) -> list[str]:
    """The plugins that a pod requires for a container, by their names; empty without annotation.

    Raises ValueError if the annotation is no list.
    """
    value = effective_annotation(pod, REQUIRED_PLUGINS, container)
    return [] if value is None else parse_required_plugins(value)


def parse_required_plugins(value: str) -> list[str]:
    """Read the annotation's value: ``["a", "b"]``, ``[a, b]``, or lines that start with ``- ``.

    Runtimes read it as YAML, of which this is the part that lists of names are written in. An empty
    value and ``null`` are an empty list. Raises ValueError for anything else.
    """
    text = value.strip()
    if text in ("", "~", "null", "Null", "NULL"):
        return []
    if text.startswith("[") and text.endswith("]"):
        items = text[1:-1].split(",")
        # YAML allows a comma after the last item.
        items = items[:-1] if not items[-1].strip() else items
    else:
        items = [_block_item(line, value) for line in text.splitlines() if line.strip()]
    return [_scalar(item.strip(), value) for item in items]


def _block_item(line: str, value: str) -> str:
    match = re.fullmatch(r"\s*-\s+(.*)", line)
    if match is None:
        raise ValueError(f"{REQUIRED_PLUGINS} is not a list of plugin names: {_check.show(value)}")
    return match[1]


def _scalar(item: str, value: str) -> str:
    """A plugin's name, plain or in quotes; no name has a character that would need more."""
    match = re.fullmatch(r"""(["']?)([A-Za-z0-9_.+-]+)\1""", item)
    if match is None:
        raise ValueError(
            f"{REQUIRED_PLUGINS} has {_check.show(item)}, which is no plugin name:"
            f" {_check.show(value)}"
        )
    return match[2]


def format_required_plugins(names: Iterable[str]) -> str:
    """The value of the annotation that requires these plugins."""
    return json.dumps(_check.texts("required plugins", names))
