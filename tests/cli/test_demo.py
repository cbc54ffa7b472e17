"""``nri-sync demo``."""

from __future__ import annotations

import json

import pytest

from nri_sync.cli import main
from nri_sync.cli.errors import ExitCode

__all__: list[str] = []


def test_the_demo_shows_the_changes_of_the_pod(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo"]) == ExitCode.OK
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("The plugin, ")
    assert "  class Annotated(nri_sync.Plugin):\n" in out
    assert "  kind: Pod\n" in out
    assert (
        "10-annotated has received 3 containers of the pod, and has changed 3 of them in 5 places"
        in out
    )
    *_, last = out.splitlines()
    assert last == "  nri-sync init my-plugin"
    assert "linux.devices[/dev/fuse]" in out
    assert out.count("process.env[BACKUP_TARGET]") == 3


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "-o", "json"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["failed"] == 0
