"""The options that ``kit.main``, ``kit.run`` and the test kit pass on to a stub."""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Callable, TypedDict

if TYPE_CHECKING:
    from nri_sync.api import EventMask, nri_pb2
    from nri_sync.plugin.interceptors import AnyInterceptor
    from nri_sync.plugin.source import Dialer
    from nri_sync.plugin.stub import Stub

__all__ = ["StubOptions", "check_options"]


class StubOptions(TypedDict, total=False):
    """Keyword arguments of :class:`nri_sync.Stub`, without the plugin's identity and the path of the socket."""

    connection: socket.socket | None
    dialer: Dialer | None
    on_close: Callable[[Stub], object] | None
    registration_timeout: float
    failure_policy: nri_pb2.FailurePolicy | None
    late_reply: bool
    required_events: EventMask | None
    interceptors: Sequence[AnyInterceptor]
    logger: logging.Logger | None


def check_options(function: str, options: Mapping[str, Any], more: Sequence[str] = ()) -> None:
    """Raise TypeError for an option that ``function`` does not have; ``more`` are those beside the stub's."""
    known = {*StubOptions.__annotations__, *more}
    for name in options:
        if name not in known:
            import difflib  # only here: 0.2 MB that hardly any program needs

            close = difflib.get_close_matches(name, sorted(known), 1)
            hint = f"did you mean {close[0]}?" if close else f"it has: {', '.join(sorted(known))}"
            raise TypeError(f"{function}() has no option {name!r}; {hint}")
