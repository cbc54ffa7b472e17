"""Checks of a node by its files."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from nri_sync.cli.node_checks import (
    Level,
    check_launched,
    check_socket,
    describe_listener,
    refused,
)
from nri_sync.net.sockets import PeerCredentials

__all__: list[str] = []

PATH = "/var/run/nri/nri.sock"
NRI = "plugins.'io.containerd.nri.v1.nri'"


def written(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


class TestSocket:
    def test_there(self, socket_dir: Path) -> None:
        path = str(socket_dir / "s")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(path)
            assert check_socket(path).level is Level.OK

    @pytest.mark.parametrize(
        ("make", "text"),
        [
            (lambda path: None, "there is no"),
            (lambda path: path.mkdir(), "is a directory"),
            (lambda path: path.touch(), "is no socket"),
            (lambda path: path.symlink_to("nowhere"), "is a broken link"),
        ],
    )
    def test_not_there(self, socket_dir: Path, make: object, text: str) -> None:
        make(socket_dir / "s")  # type: ignore[operator]
        found = check_socket(str(socket_dir / "s"))
        assert found.level is Level.PROBLEM
        assert text in found.text
        assert found.advice

    def test_no_directory(self, socket_dir: Path) -> None:
        found = check_socket(str(socket_dir / "none" / "s"))
        assert f"no directory {socket_dir / 'none'}" in found.text

    def test_forbidden(self, socket_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = str(socket_dir / "s")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(path)
            # root may access every file, so simulate a denial.
            monkeypatch.setattr(os, "access", lambda *_: False)
            assert "may not connect" in check_socket(path).text

            def forbidden(*_: object) -> None:
                raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(os, "stat", forbidden)
        found = check_socket(path)
        assert (found.level, "Permission denied" in found.text) == (Level.PROBLEM, True)

    def test_mounted_by_itself(self, socket_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = str(socket_dir / "s")
        line = f"36 35 98:0 /mnt1 {os.path.realpath(path)} rw,noatime - ext3 /dev/root rw\n"
        monkeypatch.setattr(Path, "read_text", lambda self: line)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(path)
            found = check_socket(path)
        assert found.level is Level.WARNING
        assert f"mount the directory {socket_dir}" in found.advice


class TestListener:
    def test_a_process(self) -> None:
        found = describe_listener(PeerCredentials(os.getpid(), 7, 7))
        assert f"pid {os.getpid()}, user 7" in found.text
        assert found.level is Level.OK

    def test_a_listener_outside_of_the_process_namespace(self) -> None:
        assert describe_listener(None).level is Level.INFO
        assert describe_listener(PeerCredentials(0, 0, 0)).level is Level.INFO

    def test_a_listener_that_has_ended(self) -> None:
        assert "unknown, pid" in describe_listener(PeerCredentials(2**22 + 1, 0, 0)).text

    @pytest.mark.parametrize(
        ("error", "text"),
        [
            (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), "no process listens"),
            (TimeoutError("slow"), "accepts no connections"),
            (OSError(errno.EACCES, "Permission denied"), "Permission denied"),
        ],
    )
    def test_a_listener_that_refuses(self, error: OSError, text: str) -> None:
        found = refused(PATH, error)
        assert (found.level, text in found.text) == (Level.PROBLEM, True)


class TestLaunched:
    def test_none(self, tmp_path: Path) -> None:
        assert check_launched(tmp_path, "a", "10") == []
        (tmp_path / "opt/nri/plugins").mkdir(parents=True)
        assert check_launched(tmp_path, "a", "10") == []

    def test_a_launched_plugin_of_the_same_name_is_a_warning(self, tmp_path: Path) -> None:
        written(tmp_path, "opt/nri/plugins/10-a", "")
        assert check_launched(tmp_path, "b", "10")[0].level is Level.INFO
        (found,) = check_launched(tmp_path, "a", "10")
        assert found.level is Level.WARNING
