"""Handlers of a container's lifecycle, in the form in which the kubelet writes them into annotations.

After ``LifecycleHandler`` in k8s.io/api, ``core/v1/types.go``: fields in Go's order, without unknown ones.
"""

from __future__ import annotations

import json
from typing import Any, Callable

from nri_sync.testing.manifests.fields import Fields

__all__ = ["go_json", "lifecycle_handler"]

# Go's encoder escapes the characters with a meaning in HTML and JavaScript.
_ESCAPES = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}


def go_json(value: object) -> str:
    """The encoding of ``json.Marshal`` in Go, with the keys in the given order."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).translate(_ESCAPES)


def lifecycle_handler(handler: Fields) -> dict[str, Any]:
    """``preStop`` or ``postStart``. Raises ManifestError."""
    known: dict[str, Callable[[Fields], dict[str, Any]]] = {
        "exec": _exec, "httpGet": _http_get, "tcpSocket": _tcp_socket, "sleep": _sleep,
    }  # fmt: skip
    found = [key for key in known if key in handler]
    if len(found) != 1:
        handler.fail(f"must have one of {', '.join(known)}, and has {', '.join(found) or 'none'}")
    return {found[0]: known[found[0]](handler.object(found[0]))}


def _exec(action: Fields) -> dict[str, Any]:
    return _without_empty({"command": action.texts("command")})


def _http_get(action: Fields) -> dict[str, Any]:
    headers = [
        {"name": header.text("name"), "value": header.text("value")}
        for header in action.objects("httpHeaders")
    ]
    path = {"path": action.text("path")}
    rest = {
        "host": action.text("host"),
        "scheme": action.text("scheme"),
        "httpHeaders": headers,
    }
    return {**_without_empty(path), "port": _port(action), **_without_empty(rest)}


def _tcp_socket(action: Fields) -> dict[str, Any]:
    return {"port": _port(action), **_without_empty({"host": action.text("host")})}


def _sleep(action: Fields) -> dict[str, Any]:
    return {"seconds": action.integer("seconds")}


def _port(action: Fields) -> int | str:
    """``IntOrString``."""
    port = action.data.get("port")
    return action.text("port") if isinstance(port, str) else action.integer("port")


def _without_empty(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value}
