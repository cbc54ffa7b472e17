"""Identifies the runtime that sent a message.

On one runtime, the runtime writes an annotation's key; on another, the pod's author can write the same key.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from nri_sync import api, request_context

__all__ = ["NamedRuntime", "RuntimeId", "runtime_of_request"]


class NamedRuntime(Protocol):
    """Anything that names a runtime: a ``Stub``, or a ``RuntimeId``."""

    @property
    def runtime_name(self) -> str: ...
    @property
    def runtime_version(self) -> str: ...


class RuntimeId(NamedTuple):
    """The name and version of a runtime, as Configure has them: ``RuntimeId("cri-o", "1.37.0")``."""

    runtime_name: str = ""
    runtime_version: str = ""

    @classmethod
    def of(cls, runtime: NamedRuntime | None) -> RuntimeId:
        """Return the id of ``runtime``; for None, that of the runtime whose request the current thread serves.

        Outside of a request the name is empty. Then no key in an annotation counts.
        """
        if runtime is None:
            return runtime_of_request()
        return cls(runtime.runtime_name, runtime.runtime_version)

    def release(self) -> tuple[int, int, int] | None:
        """Return major, minor and patch number; None if the version has no such form."""
        try:
            version = api.Version.parse(self.runtime_version)
        except ValueError:
            return None
        return version[:3]


def runtime_of_request() -> RuntimeId:
    """Return the runtime whose request the current thread serves, from its Configure request.

    The name is empty outside of a request. ``kit.Background`` and ``kit.in_context`` keep the request for the work
    that a handler passes to them.
    """
    try:
        context = request_context()
    except RuntimeError:
        return RuntimeId()
    facts = getattr(context, "runtime", None)
    return RuntimeId() if facts is None else RuntimeId(facts.runtime_name, facts.runtime_version)
