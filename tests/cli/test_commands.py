"""The table of the commands."""

from __future__ import annotations

import configparser
import importlib
from pathlib import Path

import pytest

from nri_sync.cli.commands import COMMANDS, EXTRAS, Command

__all__: list[str] = []

SETUP = Path(__file__).resolve().parents[2] / "setup.cfg"


@pytest.mark.parametrize(("name", "command"), COMMANDS.items())
def test_each_has_a_module(name: str, command: Command) -> None:
    module = importlib.import_module(f"nri_sync.cli.{command.module or name}")
    assert callable(module.configure)
    assert callable(module.run)


def test_the_extras_are_there() -> None:
    setup = configparser.ConfigParser()
    setup.read(SETUP)
    assert {*EXTRAS.values()} <= {*setup["options.extras_require"]}
