"""Pod annotations for plugins.

An annotation has three forms: ``example.com`` and ``example.com/pod`` for the pod, and
``example.com/container.NAME`` for one of its containers. The last form is the most specific one.
"""

from __future__ import annotations

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

#: The annotation with the names of the plugins that must be connected when a container is created.
REQUIRED_PLUGINS = "required-plugins.noderesource.dev"


def effective_annotation(pod: PodSandbox, key: str, container: str) -> str | None:
    """The value of an annotation for a container of a pod, or None without the annotation.

    The most specific form wins, even if its value is empty. ``container`` is the name of the container.
    """
    for form in (f"{key}/container.{container}", f"{key}/pod", key):
        if form in pod.annotations:
            return pod.annotations[form]
    return None


def required_plugins(pod: PodSandbox, container: str) -> list[str]:
    """The names of the plugins that a pod requires for a container; empty without the annotation.

    Raises ValueError if the annotation is not a list.
    """
    value = effective_annotation(pod, REQUIRED_PLUGINS, container)
    return [] if value is None else parse_required_plugins(value)


def parse_required_plugins(value: str) -> list[str]:
    """Parse the value of the annotation: ``["a", "b"]``, ``[a, b]``, or lines that start with ``- ``.

    Runtimes parse the value as YAML. This function supports the part of YAML that lists of names use. An empty
    value and ``null`` are an empty list. Raises ValueError for any other text.
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
    """The name of a plugin, plain or in quotes. Names have no characters that need an escape."""
    match = re.fullmatch(r"""(["']?)([A-Za-z0-9_.+-]+)\1""", item)
    if match is None:
        raise ValueError(
            f"{REQUIRED_PLUGINS} has {_check.show(item)}, which is not a plugin name:"
            f" {_check.show(value)}"
        )
    return match[2]


def format_required_plugins(names: Iterable[str]) -> str:
    """The value of the annotation that requires these plugins."""
    import json  # only here: hardly any plugin writes this annotation

    return json.dumps(_check.texts("required plugins", names))
