"""The control protocol of the peers in tests/interop, for a Python program: JSON lines on stdin and stdout."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Mapping
from typing import Any, Callable

__all__ = ["emit", "serve"]

_writing = threading.Lock()


def _write(message: Mapping[str, Any]) -> None:
    with _writing:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


def emit(event: str, data: Any = None) -> None:
    """Report an event to the other side."""
    _write({"event": event, "data": data})


def serve(commands: Mapping[str, Callable[..., Any]]) -> None:
    """Report that this program is ready, and execute commands until its input ends; then end the program."""
    emit("ready")
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"result": commands[request["cmd"]](**request["args"])}
        except Exception as error:
            answer = {"error": {"message": f"{type(error).__name__}: {error}"}}
        _write({"id": request["id"], **answer})
    os._exit(0)
