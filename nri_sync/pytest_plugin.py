"""Fixtures for tests of plugins; pytest finds them by itself once nri_sync is installed.

``nri_runtime`` is a :class:`nri_sync.testing.FakeRuntime`, ``nri_plugin`` starts plugins on it. Nothing else is
imported before one of them is used: every pytest run of an environment with nri_sync in it loads this module.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from nri_sync import Stub
    from nri_sync.testing import FakeRuntime, StartPlugin

__all__ = [
    "nri_plugin",
    "nri_runtime",
    "pytest_addoption",
    "pytest_assertrepr_compare",
    "pytest_configure",
    "pytest_report_header",
]

# That of FakeRuntime.
_RUNTIME = "containerd:v2.4.2"
_SETTINGS = (
    ("nri_runtime", "the name and version of the runtime that nri_runtime is", _RUNTIME),
    ("nri_version", "the NRI release that nri_runtime acts as; the present one by default", ""),
    ("nri_request_timeout", "seconds that plugins have on nri_runtime; 20 by default", ""),
)

_MARKER = (
    "nri_runtime(**options): what the fixture nri_runtime is made with, as "
    "nri_sync.testing.FakeRuntime takes it: name, version, request_timeout, split_sync, ..."
)


def pytest_addoption(parser: pytest.Parser) -> None:
    for name, text, default in _SETTINGS:
        parser.addini(name, text, default=default)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)
    _options(config)


def pytest_report_header(config: pytest.Config) -> str:
    release = config.getini("nri_version")
    acts = f", as NRI {release}" if release else ""
    return f"nri: runtime {config.getini('nri_runtime')}{acts}"


def _options(config: pytest.Config) -> dict[str, Any]:
    """The settings of pytest's configuration, as arguments of FakeRuntime. Raises pytest.UsageError."""
    name, _, version = config.getini("nri_runtime").replace("://", ":", 1).partition(":")
    if not name or not version:
        raise pytest.UsageError(
            f"nri_runtime is a name and a version, such as {_RUNTIME!r}, not {config.getini('nri_runtime')!r}"
        )
    options: dict[str, Any] = {"name": name, "version": version}
    if config.getini("nri_version"):
        options["nri_version"] = config.getini("nri_version")
    timeout = config.getini("nri_request_timeout")
    if timeout:
        try:
            options["request_timeout"] = float(timeout)
        except ValueError:
            raise pytest.UsageError(
                f"nri_request_timeout is a number of seconds, not {timeout!r}"
            ) from None
    return options


@pytest.fixture
def nri_runtime(request: pytest.FixtureRequest) -> Iterator[FakeRuntime]:
    """A container runtime for one test, on a new socket: nri_sync.testing.FakeRuntime.

    Its options come from the marker, ``@pytest.mark.nri_runtime(request_timeout=0.5)``, or else from the
    configuration of pytest: nri_runtime, nri_version, nri_request_timeout. A plugin that is still connected at the
    end, other than by nri_plugin, is an error of the test.
    """
    from nri_sync.testing import FakeRuntime

    _shorten(request.node)
    marker = request.node.get_closest_marker("nri_runtime")
    given = marker.kwargs if marker is not None else {}
    with FakeRuntime(**{**_options(request.config), **given}) as runtime:
        yield runtime


def _shorten(test: Any) -> None:
    """Have pytest show the failure of a handler by its frames, without their arguments.

    These are whole pods and containers. With ``--tb`` the user's choice stands.
    """
    from nri_sync.errors import RequestFailed, StartError

    ordinary = test.repr_failure
    option = test.config.option

    def repr_failure(excinfo: pytest.ExceptionInfo[BaseException], *style: Any) -> Any:
        chosen = option.tbstyle
        if chosen == "auto" and isinstance(excinfo.value, (RequestFailed, StartError)):
            option.tbstyle = "short"
        try:
            return ordinary(excinfo, *style)
        finally:
            option.tbstyle = chosen

    test.repr_failure = repr_failure


@pytest.fixture
def nri_plugin(nri_runtime: FakeRuntime) -> Iterator[StartPlugin]:
    """Starts a plugin on nri_runtime, and returns its stub: ``nri_plugin(MyPlugin(), name="mine", idx="20")``.

    Blocks until the plugin gets events. It is stopped at the end of the test, also of one that fails. An exception
    of a handler is an error of the test, unless it has failed an event that the test has seen fail. The arguments
    are those of nri_sync.testing.FakeRuntime.run_plugin.
    """
    from nri_sync.errors import NRIError

    with ExitStack() as stack:

        def start(plugin: object, **options: Any) -> Stub:
            __tracebackhide__ = True
            try:
                return stack.enter_context(nri_runtime.run_plugin(plugin, **options))
            except (NRIError, AssertionError) as error:
                # Of this package's frames pytest would show dozens of lines.
                raise error.with_traceback(None)  # noqa: B904

        yield start


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Show two messages of the protocol that differ line by line."""
    texts = [_lines(left), _lines(right)]
    if op != "==" or texts[0] is None or texts[1] is None:
        return None
    import difflib

    name = type(left).__name__
    diff = difflib.ndiff(texts[1], texts[0])
    return [f"{name} == {type(right).__name__}", "", "+ left, - right:", *diff]


def _lines(value: object) -> list[str] | None:
    """The text of a message, or of its builder; None for anything else."""
    pb2 = sys.modules.get("nri_sync.api.nri_pb2")
    api = sys.modules.get("nri_sync.api")
    if pb2 is None or api is None:
        return None  # nothing here can be one
    # An attribute of this name of any other class may be a property that raises.
    message: Any = value.message if isinstance(value, (api.Adjustment, api.Update)) else value
    # Of the class, for the same reason.
    descriptor = getattr(type(message), "DESCRIPTOR", None)
    if getattr(descriptor, "file", None) is not pb2.DESCRIPTOR:
        return None
    return str(message).splitlines()
