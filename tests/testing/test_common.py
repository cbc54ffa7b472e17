"""Directories for sockets."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

import pytest

from nri_sync.testing.common import socket_directory

__all__: list[str] = []


def test_a_directory_that_is_gone_afterwards() -> None:
    with socket_directory() as path:
        assert os.path.isdir(path)
        (Path(path) / "left").touch()
    assert not os.path.exists(path)


def test_a_socket_fits_in_the_directory_for_any_place_of_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("long" * 30)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with socket_directory() as path, socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"{path}/nri.sock")
