"""Plugin names and indices.

A runtime knows a plugin by its full name, ``NN-name``: the index and the name. The index has two decimal digits
and decides the order in which plugins are called. A runtime refuses invalid names and indices at the registration.
Up to NRI v0.11 it refuses only an empty name; the checks of this module are those of v0.12.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from nri_sync.api import _check

__all__ = ["PluginId", "check_index", "check_name", "full_name", "parse_file_name"]


class PluginId(NamedTuple):
    """An index and a name, in the order of the full name."""

    idx: str
    name: str


def check_index(index: str) -> str:
    """Return the index, or raise ValueError if it is not two decimal digits."""
    if re.fullmatch("[0-9]{2}", _check.text("plugin index", index)) is None:
        raise ValueError(
            f"plugin index {_check.show(index)} is not two decimal digits, such as '05'"
        )
    return index


def check_name(name: str) -> str:
    """Return the name, or raise ValueError if it is empty or contains an invalid character."""
    if not _check.text("plugin name", name):
        raise ValueError("plugin name is empty")
    wrong = re.search(r"[^A-Za-z0-9_.+-]", name)
    if wrong is not None:
        raise ValueError(
            f"plugin name {_check.show(name)} has the character {wrong[0]!r};"
            " letters, digits and _.+- are allowed"
        )
    return name


def full_name(index: str, name: str) -> str:
    """``NN-name``. Raises ValueError if the index or the name is invalid."""
    return f"{check_index(index)}-{check_name(name)}"


def parse_file_name(file_name: str) -> PluginId:
    """Split ``NN-name`` at its first dash, as runtimes do with the files that they launch.

    Raises ValueError without a dash, or with an index that is not two decimal digits. The name is not checked and
    may be empty, because runtimes do not check it either.
    """
    index, dash, name = _check.text("plugin file name", file_name).partition("-")
    if not dash:
        raise ValueError(
            f"plugin file name {_check.show(file_name)} is not of the form NN-name, as '10-device'"
        )
    return PluginId(check_index(index), name)
