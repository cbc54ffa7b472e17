"""The options of every plugin program: on the command line, in the environment, or by default.

A flag overrides its environment variable, and the variable overrides the default. The variable of a flag
``--some-option`` is ``NRI_SYNC_SOME_OPTION``; those of name and index are NRI_PLUGIN_NAME and NRI_PLUGIN_IDX,
which runtimes set. An empty variable counts as unset.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import Any, Callable, NamedTuple

from nri_sync import api
from nri_sync.kit.config.durations import parse_duration
from nri_sync.kit.health.address import parse_address
from nri_sync.kit.logs.dumps import selected_events
from nri_sync.kit.logs.logs import FORMATS

__all__ = ["LEVELS", "Options", "add_options"]

#: From the most records to the fewest.
LEVELS = ("debug", "info", "warning", "error", "critical")

# The bounds of the switch interval, in seconds. Below it, threads mostly switch; above it, each request is late.
_SHORTEST, _LONGEST = 0.00001, 1.0

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
_VARIABLES = {"name": api.ENV_PLUGIN_NAME, "idx": api.ENV_PLUGIN_IDX}


class Options(NamedTuple):
    """The options of :func:`nri_sync.kit.run`. The defaults are those of the command line."""

    #: The plugin's name; None: the name of the program.
    name: str | None = None
    #: The plugin's index; None: taken from a program name of the form ``NN-name``.
    idx: str | None = None
    #: The runtime's socket; None: the path in NRI_PLUGIN_SOCKET, or /var/run/nri/nri.sock.
    socket: str | None = None
    #: The configuration file; None: the text from the runtime.
    config: str | None = None
    #: Whether to reconnect after a loss of the session.
    reconnect: bool = True
    #: Whether to continue when the very first start fails.
    retry_first: bool = False
    #: The seconds that handlers in flight get when the program ends.
    grace: float = 5.0
    #: The seconds for which a thread runs Python code while another one waits; 0: the interpreter's default.
    switch_interval: float = 0.001
    #: A directory of the node, through which instances of the plugin hand over to each other.
    handover: str | None = None
    #: The address at which to serve health and metrics over HTTP.
    health_address: str | None = None
    #: The file for the health.
    health_file: str | None = None
    log_level: str = "info"
    log_format: str = "text"
    #: The events whose requests and replies are logged.
    dump: str = ""
    #: Whether to log the traceback of expected errors, whose messages name the remedy.
    traceback: bool = False

    @classmethod
    def of(cls, parsed: argparse.Namespace) -> Options:
        """Make the options from the result of a parser with :func:`add_options`; ignores its other attributes."""
        found = {name: getattr(parsed, name) for name in cls._fields}
        verbose = parsed.verbose
        found["log_level"] = "debug" if verbose else found["log_level"]
        found["traceback"] = found["traceback"] or verbose > 1
        return cls(**found)


def add_options(
    parser: argparse.ArgumentParser,
    *,
    name: str | None = None,
    idx: str | int | None = None,
    environ: Mapping[str, str] | None = None,
) -> None:
    """Add the options to a parser. Pass the parser's result to :meth:`Options.of`.

    ``name`` and ``idx`` are defaults. The function reads the environment. A wrong variable is an error of the
    parser, when it parses.

    Raises:
        ValueError: a runtime would not accept ``name`` or ``idx``.
    """
    index = f"{idx:02d}" if isinstance(idx, int) else idx
    add = _Adder(parser, os.environ if environ is None else environ).add
    add(
        "name",
        _check(api.check_name),
        name and api.check_name(name),
        "the plugin's name (default: %(default)s)"
        if name
        else "the plugin's name (default: the program's name)",
    )
    add(
        "idx",
        _check(api.check_index),
        index and api.check_index(index),
        "two digits, which decide the order of plugins (default: %(default)s)"
        if index
        else "two digits, which decide the order of plugins (default: NN of a program named NN-name)",
        metavar="NN",
    )
    add(
        "socket",
        str,
        None,
        f"the runtime's socket (default: {api.DEFAULT_SOCKET_PATH})",
        metavar="PATH",
    )
    add(
        "config",
        str,
        None,
        "the configuration file: JSON, TOML or YAML (default: the text from the runtime)",
        metavar="FILE",
    )
    add(
        "reconnect",
        _boolean,
        True,
        "reconnect after a loss of the session (default), or end",
        flag=True,
    )
    add(
        "retry-first",
        _boolean,
        False,
        "continue if the first start fails, for example because the runtime is not up yet",
        flag=True,
    )
    add(
        "grace",
        _grace,
        "5s",
        "time for handlers in flight when the program ends (default: %(default)s)",
        metavar="DURATION",
    )
    add(
        "switch-interval",
        _switch_interval,
        "1ms",
        "how long a busy thread delays handlers; 0s: the interpreter's setting (default: %(default)s)",
        metavar="DURATION",
    )
    add(
        "handover",
        str,
        None,
        "a directory of the node: stand by while another instance of the plugin serves",
        metavar="DIRECTORY",
    )
    add(
        "health-address",
        _check(parse_address, str),
        None,
        "serve /livez, /readyz and /metrics over HTTP, at 127.0.0.1:8080 or unix:///path",
        metavar="ADDRESS",
    )
    add(
        "health-file",
        str,
        None,
        "write the health to this file, for exec probes",
        metavar="FILE",
    )
    add(
        "log-level",
        _one_of(LEVELS),
        "info",
        f"one of {', '.join(LEVELS)} (default: %(default)s)",
        metavar="LEVEL",
    )
    add(
        "log-format",
        _one_of(FORMATS),
        "text",
        f"one of {', '.join(FORMATS)} (default: %(default)s)",
        metavar="FORMAT",
    )
    add(
        "dump",
        _check(selected_events, str),
        "",
        "log the requests and replies of these events: createcontainer,... or all",
        metavar="EVENTS",
    )
    add("traceback", _boolean, False, "also log the tracebacks of errors", flag=True)
    parser.add_argument(
        "-v", dest="verbose", action="count", default=0,
        help="--log-level debug; twice: also --traceback",
    )  # fmt: skip


class _FromEnvironment(str):
    """The value of a variable. argparse converts it if there is no flag, as it does with all text defaults."""

    variable: str


class _Adder:
    def __init__(self, parser: argparse.ArgumentParser, environ: Mapping[str, str]) -> None:
        self._parser = parser
        self._environ = environ

    def add(
        self,
        name: str,
        convert: Callable[[str], Any],
        default: Any,
        text: str,
        *,
        flag: bool = False,
        metavar: str | None = None,
    ) -> None:
        variable = _VARIABLES.get(name) or "NRI_SYNC_" + name.upper().replace("-", "_")
        value = self._environ.get(variable)
        if value:
            default = _FromEnvironment(value)
            default.variable = variable
        options: dict[str, Any] = {"action": _Flag} if flag else {"metavar": metavar}
        names = [f"--{name}", f"--no-{name}"] if flag and name == "reconnect" else [f"--{name}"]
        self._parser.add_argument(
            *names, type=_naming_variable(convert), default=default, help=f"{text} [{variable}]", **options
        )  # fmt: skip


class _Flag(argparse.Action):
    """A flag without a value; its variable has a value."""

    def __init__(self, option_strings: list[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **options)

    def __call__(
        self, parser: Any, namespace: Any, values: Any, option_string: str | None = None
    ) -> None:
        setattr(namespace, self.dest, not (option_string or "").startswith("--no-"))


def _naming_variable(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    def naming(text: str) -> Any:
        try:
            return convert(text)
        except (ValueError, TypeError) as error:
            variable = getattr(text, "variable", "")
            raise argparse.ArgumentTypeError(
                f"{variable}={text}: {error}" if variable else str(error)
            ) from None

    return naming


def _check(function: Callable[[str], Any], result: type | None = None) -> Callable[[str], Any]:
    """Return a function that checks a text by ``function``, and returns its result, or ``result(text)``."""

    def check(text: str) -> Any:
        checked = function(str(text))
        return checked if result is None else result(text)

    return check


def _boolean(text: str) -> bool:
    word = text.lower()
    if word not in _TRUE | _FALSE:
        raise ValueError("expected 1 or 0")
    return word in _TRUE


def _grace(text: str) -> float:
    seconds = parse_duration(str(text))
    if seconds < 0:
        raise ValueError("must not be negative")
    return seconds


def _switch_interval(text: str) -> float:
    seconds = _grace(text)
    if seconds and not _SHORTEST <= seconds <= _LONGEST:
        raise ValueError(f"must be 0s, or from {_SHORTEST * 1e6:g}us to {_LONGEST:g}s")
    return seconds


def _one_of(choices: Any) -> Callable[[str], str]:
    def choose(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(f"expected one of {', '.join(choices)}, not {str(text)!r}")
        return text.lower()

    return choose
