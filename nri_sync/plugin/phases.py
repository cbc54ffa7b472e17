"""Why a start failed or a session ended, in words: by the phase that the connection had reached.

The phases, in their order: dial, register, configure, synchronize, serve.
"""

from __future__ import annotations

from collections.abc import Iterable

from nri_sync.errors import ConnectionSpent, NRIError, StartError, StartTimeout
from nri_sync.plugin.source import Source
from nri_sync.rpc.context import RequestContext

__all__ = ["dial_failed", "handler_of", "lost", "timed_out"]


def handler_of(served: RequestContext) -> str:
    """The handler that serves a request; in an interceptor that has called none yet, the method."""
    return served.handler or served.method.rpartition("/")[2]


def dial_failed(name: str, error: BaseException, source: Source) -> Exception:
    """The exception of ``start()`` for one that was raised on the way to the registration."""
    if isinstance(error, ConnectionSpent):
        return ConnectionSpent(f"plugin {name}: {error}", phase="dial")
    kind = StartTimeout if isinstance(error, TimeoutError) else StartError
    failure = kind(f"plugin {name}: cannot connect: {source.explain(error)}", phase="dial")
    failure.__cause__ = error
    return failure


def timed_out(name: str, phase: str, *, is_current: bool, in_configure: bool) -> StartTimeout:
    """The exception of ``start()`` when its time is over.

    ``is_current``: the session before has ended; ``in_configure``: the plugin's own handler runs.
    """
    waiting = _WAITING[phase]
    if not is_current:
        waiting = "for the session before to end"
    elif phase == "configure" and in_configure:
        waiting = "for the plugin's own configure handler to return"
    return StartTimeout(
        f"plugin {name}: the time for starting was over while waiting {waiting}", phase=phase
    )


def lost(
    name: str,
    cause: NRIError | None,
    phase: str,
    serving: Iterable[RequestContext],
    now: float,
    request_timeout: float,
) -> str:
    """The cause, the phase, and the likely reason. ``serving`` are the requests in flight."""
    likely = _slow(serving, now, request_timeout) or _LIKELY[phase]
    return f"plugin {name}: {cause} {_WHILE[phase]}; {likely}"


def _slow(serving: Iterable[RequestContext], now: float, timeout: float) -> str:
    slow = [served for served in serving if now - served.since > 0.9 * timeout]
    if not slow:
        return ""
    names = ", ".join(f"{handler_of(served)} ({now - served.since:.1f} s)" for served in slow)
    return f"a handler took longer than the request timeout of {timeout:g} s: {names}"


_WAITING = {
    "dial": "to connect; does the runtime still accept connections?",
    "register": "for an answer to RegisterPlugin; does an NRI runtime listen there, and is it alive?",
    "configure": "to be configured; is the runtime busy with other plugins?",
}
_WHILE = {
    "register": "before it answered RegisterPlugin",
    "configure": "after the registration, before the plugin was configured",
    "synchronize": "before the plugin was synchronized",
    "serve": "while the plugin was serving",
}
_LIKELY = {
    "register": "is this the socket of an NRI runtime? one that is stopping, or busy, closes it too",
    "configure": "the runtime took too long over others, or stopped; see its log",
    "synchronize": "the runtime refused the events subscribed to, or an answer, or stopped; see its log",
    "serve": "the runtime was stopped or restarted, or it disconnected the plugin; see its log",
}
