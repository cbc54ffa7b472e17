"""``nri-sync demo``."""

from __future__ import annotations

import json

import pytest

from nri_sync.cli import main
from nri_sync.cli.errors import ExitCode

__all__: list[str] = []


def test_it_shows_what_the_plugin_does_to_the_pod(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo"]) == ExitCode.OK
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("nri-sync simulate ")
    assert "linux.devices[/dev/fuse]" in out
    assert out.count("process.env[BACKUP_TARGET]") == 3


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "-o", "json"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["failed"] == 0
