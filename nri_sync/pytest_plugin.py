"""Fixtures for tests of plugins. pytest finds them in every environment that has nri_sync.

``nri_runtime`` is a :class:`nri_sync.testing.FakeRuntime`, and ``nri_plugin`` starts plugins on it. Every pytest
run of such an environment loads this module, so it imports the rest of nri_sync only when a test uses a fixture.
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
    "pytest_runtest_setup",
]

# This is also the default of FakeRuntime.
_RUNTIME = "containerd:v2.4.2"
_SETTINGS = (
    ("nri_runtime", "the runtime's name and version for nri_runtime", _RUNTIME),
    ("nri_version", "the NRI release for nri_runtime to act as; the newest by default", ""),
    ("nri_request_timeout", "the request timeout of nri_runtime in seconds; 20 by default", ""),
)

_MARKER = (
    "nri_runtime(**options): the arguments of the fixture nri_runtime, which are those of "
    "nri_sync.testing.FakeRuntime: name, version, request_timeout, split_sync, ..."
)


def pytest_addoption(parser: pytest.Parser) -> None:
    for name, text, default in _SETTINGS:
        parser.addini(name, text, default=default)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)
    _options(config)


def pytest_runtest_setup() -> None:
    """Let the log of a test not depend on the number of records of earlier tests."""
    flood = sys.modules.get("nri_sync.flood")
    if flood is not None:
        flood.records.reset()


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
    configuration of pytest: nri_runtime, nri_version, nri_request_timeout. The test has an error if, at its
    end, a plugin is still connected that nri_plugin has not started.
    """
    from nri_sync.testing import FakeRuntime

    _shorten(request.node)
    marker = request.node.get_closest_marker("nri_runtime")
    given = marker.kwargs if marker is not None else {}
    with FakeRuntime(**{**_options(request.config), **given}) as runtime:
        yield runtime


def _shorten(test: Any) -> None:
    """Make pytest print the frames of a failed handler without their arguments.

    The arguments are whole pods and containers. With ``--tb``, the user's choice applies.
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
    """Starts plugins on nri_runtime: ``stub = nri_plugin(MyPlugin(), name="mine", idx="20")``.

    The call blocks until the plugin receives events. The fixture stops the plugin at the end of the test, even if
    the test fails. An exception of a handler is an error of the test, unless the test has caught the failure of
    the event. The arguments are those of nri_sync.testing.FakeRuntime.run_plugin.
    """
    from nri_sync.errors import NRIError

    with ExitStack() as stack:

        def start(plugin: object, **options: Any) -> Stub:
            __tracebackhide__ = True
            try:
                return stack.enter_context(nri_runtime.run_plugin(plugin, **options))
            except (NRIError, AssertionError) as error:
                # With this package's frames, pytest would print dozens of lines.
                raise error.with_traceback(None)  # noqa: B904

        yield start


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Show the difference of two protocol messages line by line."""
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
        return None  # without these modules, no value is a message
    # Read the attribute of these classes only: in another class it may be a property that raises.
    message: Any = value.message if isinstance(value, (api.Adjustment, api.Update)) else value
    # Read it from the class, for the same reason.
    descriptor = getattr(type(message), "DESCRIPTOR", None)
    if getattr(descriptor, "file", None) is not pb2.DESCRIPTOR:
        return None
    return str(message).splitlines()
