"""Fixtures for tests of plugins; pytest finds them by itself once nri_sync is installed.

``nri_runtime`` is a :class:`nri_sync.testing.FakeRuntime`, ``nri_plugin`` starts plugins on it. Nothing else is
imported before one of them is used: every pytest run of an environment with nri_sync in it loads this module.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from nri_sync import Stub
    from nri_sync.testing import FakeRuntime, StartPlugin

__all__ = ["nri_plugin", "nri_runtime", "pytest_assertrepr_compare", "pytest_configure"]

_MARKER = (
    "nri_runtime(**options): what the fixture nri_runtime is made with, as "
    "nri_sync.testing.FakeRuntime takes it: name, version, request_timeout, split_sync, ..."
)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)


@pytest.fixture
def nri_runtime(request: pytest.FixtureRequest) -> Iterator[FakeRuntime]:
    """A container runtime for one test, on a socket of its own: nri_sync.testing.FakeRuntime.

    Its options come from the marker: ``@pytest.mark.nri_runtime(request_timeout=0.5)``. A plugin that is still
    connected at the end, other than by nri_plugin, is an error of the test.
    """
    from nri_sync.testing import FakeRuntime

    marker = request.node.get_closest_marker("nri_runtime")
    with FakeRuntime(**(marker.kwargs if marker is not None else {})) as runtime:
        yield runtime


@pytest.fixture
def nri_plugin(nri_runtime: FakeRuntime) -> Iterator[StartPlugin]:
    """Starts a plugin on nri_runtime, and returns its stub: ``nri_plugin(MyPlugin(), name="mine", idx="20")``.

    Blocks until the plugin gets events. It is stopped at the end of the test, whatever happens. What a handler
    has raised, other than to fail an event that the test has seen fail, is an error of the test. The arguments are
    those of nri_sync.testing.FakeRuntime.run_plugin.
    """
    with ExitStack() as stack:

        def start(plugin: object, **options: Any) -> Stub:
            return stack.enter_context(nri_runtime.run_plugin(plugin, **options))

        yield start


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Show two messages of the protocol that differ line by line."""
    texts = [_lines(left), _lines(right)]
    if op != "==" or texts[0] is None or texts[1] is None:
        return None
    name = type(left).__name__
    diff = difflib.ndiff(texts[1], texts[0])
    return [f"{name} == {type(right).__name__}", "", "+ left, - right:", *diff]


def _lines(value: object) -> list[str] | None:
    """The text of a message, or of what builds one; None for anything else."""
    pb2 = sys.modules.get("nri_sync.api.nri_pb2")
    if pb2 is None:
        return None  # nothing here can be one
    message: Any = getattr(value, "message", value)
    descriptor = getattr(message, "DESCRIPTOR", None)
    if getattr(descriptor, "file", None) is not pb2.DESCRIPTOR:
        return None
    return str(message).splitlines()
