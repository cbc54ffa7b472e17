"""The options that every plugin has as a program: on the command line, in the environment, or by default.

A flag wins over its environment variable, and that over the default. A flag ``--some-option`` is
``NRI_SYNC_SOME_OPTION`` in the environment; name and index are NRI_PLUGIN_NAME and NRI_PLUGIN_IDX there, as
runtimes have it. An empty variable is none.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Callable

from nri_sync import api
from nri_sync.kit.config.durations import parse_duration
from nri_sync.kit.health.server import parse_address
from nri_sync.kit.logs.dumps import selected_events
from nri_sync.kit.logs.logs import FORMATS

__all__ = ["LEVELS", "Options", "add_options"]

#: From all to little.
LEVELS = ("debug", "info", "warning", "error", "critical")

# Of the switch interval, in seconds: below, threads do little but switch; above, each request is late.
_SHORTEST, _LONGEST = 0.00001, 1.0

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
_VARIABLES = {"name": api.ENV_PLUGIN_NAME, "idx": api.ENV_PLUGIN_IDX}


@dataclass(frozen=True)
class Options:
    """What :func:`nri_sync.kit.run` needs to know. The defaults are those of the command line."""

    #: Of the plugin; None: the name of the program.
    name: str | None = None
    #: Of the plugin; None: from a program called ``NN-name``.
    idx: str | None = None
    #: Of the runtime; None: what NRI_PLUGIN_SOCKET says, or /var/run/nri/nri.sock.
    socket: str | None = None
    #: The configuration file; None: what the runtime sends.
    config: str | None = None
    #: Whether to come back after the session is lost.
    reconnect: bool = True
    #: Whether to go on when the very first start fails.
    retry_first: bool = False
    #: Seconds that handlers in flight have when the program is to end.
    grace: float = 5.0
    #: Seconds that a thread runs Python before another one may; 0: as the interpreter has it.
    switch_interval: float = 0.001
    #: A directory of the node, by which instances of the plugin take turns.
    handover: str | None = None
    #: Where to serve health and metrics over HTTP.
    health_address: str | None = None
    #: The file to keep the health in.
    health_file: str | None = None
    log_level: str = "info"
    log_format: str = "text"
    #: The events whose requests and replies to log.
    dump: str = ""
    #: Whether to log the traceback of errors that tell themselves what to do.
    traceback: bool = False

    @classmethod
    def of(cls, parsed: argparse.Namespace) -> Options:
        """From what a parser with :func:`add_options` has parsed, whatever else that holds."""
        found = {field.name: getattr(parsed, field.name) for field in fields(cls)}
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
    """Add the options to a parser; hand what it has parsed to :meth:`Options.of`.

    ``name`` and ``idx`` are defaults. The environment is read here; what is wrong in it is an error
    of the parser, when it parses.

    Raises:
        ValueError: ``name`` or ``idx`` are not what a runtime accepts.
    """
    index = f"{idx:02d}" if isinstance(idx, int) else idx
    add = _Adder(parser, os.environ if environ is None else environ).add
    add(
        "name",
        _check(api.check_name),
        name and api.check_name(name),
        "of the plugin (default: %(default)s)"
        if name
        else "of the plugin (default: that of the program)",
    )
    add(
        "idx",
        _check(api.check_index),
        index and api.check_index(index),
        "two digits, which decide the order of plugins (default: %(default)s)"
        if index
        else "two digits, which decide the order of plugins (default: from a program called NN-name)",
        metavar="NN",
    )
    add("socket", str, None, f"of the runtime (default: {api.DEFAULT_SOCKET_PATH})", metavar="PATH")
    add(
        "config",
        str,
        None,
        "the configuration: JSON, TOML or YAML (default: what the runtime sends)",
        metavar="FILE",
    )
    add(
        "reconnect",
        _boolean,
        True,
        "come back after the session is lost, the default, or end",
        flag=True,
    )
    add(
        "retry-first",
        _boolean,
        False,
        "go on when the first start fails, as when the runtime is not up yet",
        flag=True,
    )
    add(
        "grace",
        _grace,
        "5s",
        "time for handlers in flight when the program is to end (default: %(default)s)",
        metavar="DURATION",
    )
    add(
        "switch-interval",
        _switch_interval,
        "1ms",
        "how long a busy thread keeps handlers waiting; 0s: as the interpreter has it (default: %(default)s)",
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
    add("health-file", str, None, "keep the health in a file, for exec probes", metavar="FILE")
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
    add("traceback", _boolean, False, "log the tracebacks of errors, too", flag=True)
    parser.add_argument(
        "-v", dest="verbose", action="count", default=0,
        help="--log-level debug; twice: --traceback as well",
    )  # fmt: skip


class _FromEnvironment(str):
    """The value of a variable; like all texts that are defaults, argparse converts it if there is no flag."""

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
            *names, type=_telling_where(convert), default=default, help=f"{text} [{variable}]", **options
        )  # fmt: skip


class _Flag(argparse.Action):
    """A flag without a value, whose variable has one."""

    def __init__(self, option_strings: list[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **options)

    def __call__(
        self, parser: Any, namespace: Any, values: Any, option_string: str | None = None
    ) -> None:
        setattr(namespace, self.dest, not (option_string or "").startswith("--no-"))


def _telling_where(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    def telling(text: str) -> Any:
        try:
            return convert(text)
        except (ValueError, TypeError) as error:
            variable = getattr(text, "variable", "")
            raise argparse.ArgumentTypeError(
                f"{variable}={text}: {error}" if variable else str(error)
            ) from None

    return telling


def _check(function: Callable[[str], Any], result: type | None = None) -> Callable[[str], Any]:
    """Convert by a function, or only check by it, when there is a ``result`` to make of the text instead."""

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
