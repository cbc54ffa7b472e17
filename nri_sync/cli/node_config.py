"""Whether containerd and CRI-O have NRI enabled in their configuration, in the places of the distributions, too.

``root`` is the root of the node's file system: ``/``, or the place where a container has mounted it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nri_sync.cli.node_checks import Finding, Level
from nri_sync.errors import ConfigError
from nri_sync.kit.config.documents import read
from nri_sync.kit.config.durations import parse_duration

__all__ = ["check_configuration"]

_CRIO = "etc/crio/crio.conf"
_CRIO_DIRECTORY = "etc/crio/crio.conf.d"
_NRI = "io.containerd.nri.v1.nri"
_TABLE = f"[plugins.'{_NRI}']"
# The short name of the plugin, which containerd 1 also accepts in a file of version 1 (the default).
_SHORT = "nri"
#: The settings of NRI in containerd (``Config`` in internal/nri/config.go); the first two are durations.
_TIMEOUTS = ("plugin_registration_timeout", "plugin_request_timeout")
_SETTINGS = (
    *_TIMEOUTS,
    "disable_connections",
    "plugin_config_path",
    "plugin_path",
)
#: The same for CRI-O (``NRIConfig`` in internal/config/nri).
_CRIO_TIMEOUTS = ("nri_plugin_registration_timeout", "nri_plugin_request_timeout")
_CRIO_SETTINGS = (
    *_CRIO_TIMEOUTS,
    "enable_nri",
    "nri_disable_connections",
    "nri_listen",
    "nri_plugin_config_dir",
    "nri_plugin_dir",
)


class _Place(NamedTuple):
    """The place of the containerd configuration in a distribution."""

    name: str
    path: str
    #: How to change a setting there, and the restart that the change needs.
    change: str
    restart: str


_STANDARD = _Place("containerd", "etc/containerd/config.toml", "", "restart containerd")
_KIND = "kind/version"
_PLACES = (
    _STANDARD,
    _Place(
        "k3s", "var/lib/rancher/k3s/agent/etc/containerd/config.toml",
        "in config-v3.toml.tmpl beside it (config.toml.tmpl for containerd 1.7), because k3s rewrites the file",
        "restart k3s or k3s-agent",
    ),
    _Place(
        "RKE2", "var/lib/rancher/rke2/agent/etc/containerd/config.toml",
        "in config-v3.toml.tmpl beside it (config.toml.tmpl for containerd 1.7), because RKE2 rewrites the file",
        "restart rke2-server or rke2-agent",
    ),
    _Place(
        "k0s", "etc/k0s/containerd.toml", "in a separate file, /etc/k0s/containerd.d/nri.toml",
        "restart k0scontroller or k0sworker",
    ),
    _Place(
        "MicroK8s", "var/snap/microk8s/current/args/containerd.toml",
        "in containerd-template.toml beside it, because MicroK8s rewrites the file",
        "restart snap.microk8s.daemon-containerd",
    ),
    _Place(
        "Talos", "etc/cri/containerd.toml",
        "in the machine configuration: machine.files, for /etc/cri/conf.d/20-customization.part",
        "reboot the node",
    ),
)  # fmt: skip


def check_configuration(root: Path, socket_path: str) -> list[Finding]:
    """Whether each runtime that has a configuration file here has NRI enabled."""
    found: list[Finding] = []
    for place in _PLACES:
        if (root / place.path).exists():
            found += _containerd(root, _in_kind(root, place), socket_path)
    found += _crio(root, socket_path)
    if not found:
        text = (
            f"no {root / _STANDARD.path}, and no {root / _CRIO}: the defaults of the runtime apply"
        )
        others = ", ".join(place.name for place in _PLACES[1:])
        advice = (
            "containerd 2.0 and later enables NRI by default, and so do recent releases of CRI-O; --root sets "
            f"the directory to search. There is no configuration of {others} either"
        )
        found.append(Finding(Level.INFO, "configuration", text, advice))
    return found


def _in_kind(root: Path, place: _Place) -> _Place:
    """The place for a node of kind, which has its configuration at the standard path; else ``place``."""
    if place is not _STANDARD or not (root / _KIND).exists():
        return place
    return place._replace(
        name="kind",
        change="by containerdConfigPatches in the configuration of the kind cluster",
        restart="recreate the cluster",
    )


def _containerd(root: Path, place: _Place, socket_path: str) -> Iterator[Finding]:
    path = root / place.path
    check = place.name
    values, problem = _document(path, check)
    if problem is not None:
        yield problem
        return
    documents = [(path, values)]
    for pattern in _texts(values.get("imports")):
        for name in sorted(_matching(root, path, pattern)):
            more, problem = _document(name, check)
            if problem is not None:
                yield problem
            else:
                documents.append((name, more))
    merged: dict[str, Any] = {}
    disabled: list[str] = []
    for _, values in documents:
        if values.get("version", 1) == 1:
            merged.update(_section(values, "plugins", _SHORT))
        merged.update(_section(values, "plugins", _NRI))
        disabled += _texts(values.get("disabled_plugins"))
    imported = ", ".join(name.name for name, _ in documents[1:])
    where = f"{path} (with {imported})" if imported else str(path)
    yield _enabled(place, where, merged, {_NRI, _SHORT} & {*disabled})
    for name, values in documents:
        yield from _misplaced(check, name, values, ("plugins", _NRI), _SETTINGS)
        for table in _alike(values, ()):
            if table != ("plugins", _NRI) and not _is_short(table, values):
                yield Finding(
                    Level.WARNING, check, f"{name}: the table [{_name(table)}] has no effect",
                    f"the table of NRI is {_TABLE}",
                )  # fmt: skip
    yield from _durations(check, where, merged, _TIMEOUTS)
    yield from _socket_path(check, merged.get("socket_path"), socket_path)


def _enabled(place: _Place, where: str, merged: Mapping[str, Any], disabled: set[str]) -> Finding:
    change = f", {place.change}" if place.change else ""
    problem = ""
    if disabled:
        problem, advice = "NRI is in disabled_plugins", f'remove "{min(disabled)}" from it'
    elif merged.get("disable") is True:
        problem, advice = "NRI is disabled", f"set disable = false in {_TABLE}"
    elif merged.get("disable_connections") is True:
        problem = "only plugins that containerd launches may connect"
        advice = f"set disable_connections = false in {_TABLE}"
    if problem:
        return Finding(
            Level.PROBLEM,
            place.name,
            f"{where}: {problem}",
            f"{advice}{change}, and {place.restart}",
        )
    if "disable" in merged:
        return Finding(Level.OK, place.name, f"{where}: NRI is enabled")
    return Finding(
        Level.INFO, place.name, f"{where}: has no setting for NRI",
        f"containerd 2.0 enables NRI, 1.7 disables it: set disable = false in {_TABLE}{change}, "
        f"and {place.restart}",
    )  # fmt: skip


def _misplaced(
    check: str,
    path: Path,
    values: Mapping[str, Any],
    table: tuple[str, ...],
    settings: tuple[str, ...],
) -> Iterator[Finding]:
    """Warnings of NRI settings in a wrong table, which the runtime ignores."""
    own = f"[{table[0]}.{table[1]}]" if "." not in table[1] else _TABLE
    for found, name in _named(values, (), settings):
        if found == table or _is_short(found, values):
            continue
        there = f"in [{_name(found)}]" if found else "outside all tables"
        yield Finding(
            Level.WARNING, check, f"{path}: {name} is {there}, where it has no effect",
            f"move it to {own}, and restart the runtime",
        )  # fmt: skip


def _named(
    values: Mapping[str, Any], table: tuple[str, ...], settings: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], str]]:
    """The table and the name of each setting. Looks 8 tables deep, which is deeper than a runtime's tables."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            if len(table) < 8:
                yield from _named(value, (*table, key), settings)
        elif key in settings and not _another(table, key):
            yield table, key


def _another(table: tuple[str, ...], key: str) -> bool:
    """Whether the setting belongs to another plugin of containerd, in spite of its name."""
    return key == "plugin_path" and table[:1] == ("plugins",) and table[1:2] != (_NRI,)


def _is_short(table: tuple[str, ...], values: Mapping[str, Any]) -> bool:
    """Whether the table is the table of NRI in a file of version 1."""
    return table == ("plugins", _SHORT) and values.get("version", 1) == 1


def _alike(values: Mapping[str, Any], table: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The tables, at any depth, that have ``nri`` as a word of their name."""
    for key, value in values.items():
        if isinstance(value, Mapping) and len(table) < 8:
            words = key.lower().split(".")
            if "nri" in words:
                yield (*table, key)
            else:
                yield from _alike(value, (*table, key))


def _name(table: tuple[str, ...]) -> str:
    """The name of a table, in the syntax of TOML."""
    return ".".join(
        key if key.replace("-", "").replace("_", "").isalnum() else f"'{key}'" for key in table
    )


def _durations(
    check: str, where: str, merged: Mapping[str, Any], names: tuple[str, ...]
) -> Iterator[Finding]:
    for name in names:
        value = merged.get(name)
        if value is None:
            continue
        try:
            seconds = parse_duration(value) if isinstance(value, str) else None
        except ValueError:
            seconds = None
        if seconds is None or seconds <= 0:
            yield Finding(
                Level.PROBLEM, check, f"{where}: {name} = {value!r} is no duration",
                'write it as in "2s", and restart the runtime',
            )  # fmt: skip


def _texts(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _crio(root: Path, socket_path: str) -> Iterator[Finding]:
    paths = [root / _CRIO, *sorted((root / _CRIO_DIRECTORY).glob("*"))]
    paths = [path for path in paths if path.is_file()]
    if not paths:
        return
    check = "CRI-O"
    merged: dict[str, Any] = {}
    source = ""
    for path in paths:
        values, problem = _document(path, check)
        if problem is not None:
            yield problem
            continue
        yield from _misplaced(check, path, values, ("crio", "nri"), _CRIO_SETTINGS)
        section = _section(values, "crio", "nri")
        merged.update(section)
        source = str(path) if "enable_nri" in section else source
    if merged.get("enable_nri") is False:
        yield Finding(
            Level.PROBLEM, check, f"{source}: NRI is disabled",
            "set enable_nri = true in [crio.nri], and restart CRI-O",
        )  # fmt: skip
    elif merged.get("nri_disable_connections") is True:
        yield Finding(
            Level.PROBLEM, check, "only plugins that CRI-O launches may connect",
            "set nri_disable_connections = false in [crio.nri], and restart CRI-O",
        )  # fmt: skip
    elif "enable_nri" in merged:
        yield Finding(Level.OK, check, f"{source}: NRI is enabled")
    else:
        yield Finding(
            Level.INFO, check, f"{paths[0]}: has no setting for NRI",
            "newer releases of CRI-O enable NRI; for others set enable_nri = true in [crio.nri]",
        )  # fmt: skip
    yield from _durations(check, str(paths[-1]), merged, _CRIO_TIMEOUTS)
    yield from _socket_path(check, merged.get("nri_listen"), socket_path)


def _socket_path(check: str, configured: Any, path: str) -> Iterator[Finding]:
    if configured and os.path.realpath(str(configured)) != os.path.realpath(path):
        yield Finding(
            Level.WARNING, check, f"the runtime listens on {configured}, and not on {path}",
            f"use --socket {configured}, here and for the plugin",
        )  # fmt: skip


def _document(path: Path, check: str) -> tuple[dict[str, Any], Finding | None]:
    problem = Finding(Level.WARNING, check, "")
    try:
        values = read(path, "toml").data
    except ConfigError as error:
        problem.text = str(error).replace("\n", "; ")
        problem.advice = "this file does not show whether NRI is enabled"
        return {}, problem
    return dict(values), None


def _section(values: Any, *names: str) -> dict[str, Any]:
    for name in names:
        values = values.get(name, {}) if isinstance(values, dict) else {}
    return values if isinstance(values, dict) else {}


def _matching(root: Path, base: Path, pattern: str) -> Iterator[Path]:
    whole = root / pattern.lstrip("/") if pattern.startswith("/") else base.parent / pattern
    yield from (path for path in whole.parent.glob(whole.name) if path.is_file())
