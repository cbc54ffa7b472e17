"""Whether NRI is enabled in the configuration of containerd and CRI-O, also where distributions keep that.

``root`` is where the file system of the node is: ``/``, or where a container has it mounted.
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
# In a file of version 1, the default, containerd 1 takes the short name as well.
_SHORT = "nri"
#: The settings of NRI in containerd (``Config`` in internal/nri/config.go), and those that are durations.
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
    """Where a distribution has the configuration of its containerd."""

    name: str
    path: str
    #: Where to change a setting, and the restart that it takes.
    change: str
    restart: str


_STANDARD = _Place("containerd", "etc/containerd/config.toml", "", "restart containerd")
_KIND = "kind/version"
_PLACES = (
    _STANDARD,
    _Place(
        "k3s", "var/lib/rancher/k3s/agent/etc/containerd/config.toml",
        "in config-v3.toml.tmpl beside it (config.toml.tmpl for containerd 1.7), as k3s writes the file anew",
        "restart k3s or k3s-agent",
    ),
    _Place(
        "RKE2", "var/lib/rancher/rke2/agent/etc/containerd/config.toml",
        "in config-v3.toml.tmpl beside it (config.toml.tmpl for containerd 1.7), as RKE2 writes the file anew",
        "restart rke2-server or rke2-agent",
    ),
    _Place(
        "k0s", "etc/k0s/containerd.toml", "in a file of its own, /etc/k0s/containerd.d/nri.toml",
        "restart k0scontroller or k0sworker",
    ),
    _Place(
        "MicroK8s", "var/snap/microk8s/current/args/containerd.toml",
        "in containerd-template.toml beside it, as MicroK8s writes the file anew",
        "restart snap.microk8s.daemon-containerd",
    ),
    _Place(
        "Talos", "etc/cri/containerd.toml",
        "in the machine configuration: machine.files, for /etc/cri/conf.d/20-customization.part",
        "reboot the node",
    ),
)  # fmt: skip


def check_configuration(root: Path, socket_path: str) -> list[Finding]:
    """Whether the runtimes whose configuration is there have NRI enabled."""
    found: list[Finding] = []
    for place in _PLACES:
        if (root / place.path).exists():
            found += _containerd(root, _in_kind(root, place), socket_path)
    found += _crio(root, socket_path)
    if not found:
        text = f"no {root / _STANDARD.path}, and no {root / _CRIO}: the runtime's defaults hold"
        others = ", ".join(place.name for place in _PLACES[1:])
        advice = (
            "containerd has NRI on from 2.0, CRI-O in its newer releases; --root is the directory to look in. "
            f"There is no configuration of {others} either"
        )
        found.append(Finding(Level.INFO, "configuration", text, advice))
    return found


def _in_kind(root: Path, place: _Place) -> _Place:
    """The same, or how kind has it, whose nodes have the standard path."""
    if place is not _STANDARD or not (root / _KIND).exists():
        return place
    return place._replace(
        name="kind",
        change="by containerdConfigPatches in the configuration of the kind cluster",
        restart="create the cluster anew",
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
        problem, advice = "NRI is among the disabled_plugins", f'take "{min(disabled)}" out of them'
    elif merged.get("disable") is True:
        problem, advice = "NRI is disabled", f"set disable = false in {_TABLE}"
    elif merged.get("disable_connections") is True:
        problem = "only plugins that containerd launches may be there"
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
        Level.INFO, place.name, f"{where}: says nothing of NRI",
        f"containerd 2.0 has it on; 1.7 has it off: set disable = false in {_TABLE}{change}, and {place.restart}",
    )  # fmt: skip


def _misplaced(
    check: str,
    path: Path,
    values: Mapping[str, Any],
    table: tuple[str, ...],
    settings: tuple[str, ...],
) -> Iterator[Finding]:
    """The settings of NRI in another table, where the runtime does not look at them."""
    own = f"[{table[0]}.{table[1]}]" if "." not in table[1] else _TABLE
    for found, name in _named(values, (), settings):
        if found == table or _is_short(found, values):
            continue
        there = f"in [{_name(found)}]" if found else "outside of all tables"
        yield Finding(
            Level.WARNING, check, f"{path}: {name} is {there}, and has no effect there",
            f"move it to {own}, and restart the runtime",
        )  # fmt: skip


def _named(
    values: Mapping[str, Any], table: tuple[str, ...], settings: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Where settings are, as tables and names. As deep as tables of a runtime are."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            if len(table) < 8:
                yield from _named(value, (*table, key), settings)
        elif key in settings and not _another(table, key):
            yield table, key


def _another(table: tuple[str, ...], key: str) -> bool:
    """Whether a setting of this name belongs to another plugin of containerd."""
    return key == "plugin_path" and table[:1] == ("plugins",) and table[1:2] != (_NRI,)


def _is_short(table: tuple[str, ...], values: Mapping[str, Any]) -> bool:
    """Whether it is the table of NRI in a file of version 1."""
    return table == ("plugins", _SHORT) and values.get("version", 1) == 1


def _alike(values: Mapping[str, Any], table: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The tables that are called as NRI's, whole or in part, anywhere."""
    for key, value in values.items():
        if isinstance(value, Mapping) and len(table) < 8:
            words = key.lower().split(".")
            if "nri" in words:
                yield (*table, key)
            else:
                yield from _alike(value, (*table, key))


def _name(table: tuple[str, ...]) -> str:
    """As TOML has it."""
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
                Level.PROBLEM, check, f"{where}: {name} = {value!r} is no time",
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
    told = ""
    for path in paths:
        values, problem = _document(path, check)
        if problem is not None:
            yield problem
            continue
        yield from _misplaced(check, path, values, ("crio", "nri"), _CRIO_SETTINGS)
        section = _section(values, "crio", "nri")
        merged.update(section)
        told = str(path) if "enable_nri" in section else told
    if merged.get("enable_nri") is False:
        yield Finding(
            Level.PROBLEM, check, f"{told}: NRI is disabled",
            "set enable_nri = true in [crio.nri], and restart CRI-O",
        )  # fmt: skip
    elif merged.get("nri_disable_connections") is True:
        yield Finding(
            Level.PROBLEM, check, "only plugins that CRI-O launches may be there",
            "set nri_disable_connections = false in [crio.nri], and restart CRI-O",
        )  # fmt: skip
    elif "enable_nri" in merged:
        yield Finding(Level.OK, check, f"{told}: NRI is enabled")
    else:
        yield Finding(
            Level.INFO, check, f"{paths[0]}: says nothing of NRI",
            "newer releases of CRI-O have it on; for others set enable_nri = true in [crio.nri]",
        )  # fmt: skip
    yield from _durations(check, str(paths[-1]), merged, _CRIO_TIMEOUTS)
    yield from _socket_path(check, merged.get("nri_listen"), socket_path)


def _socket_path(check: str, configured: Any, path: str) -> Iterator[Finding]:
    if configured and os.path.realpath(str(configured)) != os.path.realpath(path):
        yield Finding(
            Level.WARNING, check, f"listens on {configured}, and not on {path}",
            f"use --socket {configured}, here and for the plugin",
        )  # fmt: skip


def _document(path: Path, check: str) -> tuple[dict[str, Any], Finding | None]:
    problem = Finding(Level.WARNING, check, "")
    try:
        values = read(path, "toml").data
    except ConfigError as error:
        problem.text = str(error).replace("\n", "; ")
        problem.advice = "whether NRI is enabled cannot be told from it"
        return {}, problem
    return dict(values), None


def _section(values: Any, *names: str) -> dict[str, Any]:
    for name in names:
        values = values.get(name, {}) if isinstance(values, dict) else {}
    return values if isinstance(values, dict) else {}


def _matching(root: Path, base: Path, pattern: str) -> Iterator[Path]:
    whole = root / pattern.lstrip("/") if pattern.startswith("/") else base.parent / pattern
    yield from (path for path in whole.parent.glob(whole.name) if path.is_file())
