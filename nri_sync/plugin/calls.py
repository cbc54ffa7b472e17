"""Calls of a plugin to the runtime, which an interrupt of the main thread cancels."""

from __future__ import annotations

from typing import Any

from nri_sync.api.services import RUNTIME
from nri_sync.plugin.ignored import IgnoredFields
from nri_sync.plugin.interceptors import Metadata
from nri_sync.plugin.spec import PluginSpec
from nri_sync.rpc.client import ClientEnd
from nri_sync.threads import call_off_main, on_main_thread

__all__ = ["call_runtime"]


def call_runtime(
    plugin: PluginSpec,
    client: ClientEnd,
    ignored: IgnoredFields,
    rpc: str,
    request: Any,
    seconds: float,
) -> Any:
    """Call the method ``rpc`` of the Runtime service, with the interceptors around it; returns the response.

    Blocks until the call is done. Another thread makes a call of the main thread, and an interrupt cancels it.

    Raises:
        CallFailed: the call failed.
        Exception: an interceptor raised it.
    """
    method = plugin.interceptors.method(client, RUNTIME.methods[rpc])
    unwanted: list[None] = []
    calls: list[Any] = []
    from_main = on_main_thread()

    def send(request: Any, metadata: Metadata) -> Any:
        plugin.tally.add("updates")
        ignored.check(rpc, request)
        if not from_main:
            return method(request, seconds, metadata)
        calls.append(method.begin(request, seconds, metadata))
        if unwanted:
            cancel()
        try:
            return calls[-1].result()
        finally:
            # The finalizer of a call may be Python code: on the main thread it could swallow an interrupt.
            calls.clear()

    def cancel() -> None:
        # Mark, then look; the other thread attaches, then looks.
        unwanted.append(None)
        for call in calls:
            call.cancel()

    around = plugin.interceptors.around_call(rpc, send)
    return call_off_main(f"{plugin.name}-call", lambda: around(request, ()), cancel)
