"""Files at paths where other users may have put a different kind of file."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from nri_sync import files

__all__: list[str] = []

OTHERS = 12345
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class TestReading:
    def test_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"\xff\r\n")
        assert files.read_regular(path, 3) == b"\xff\r\n"

    def test_more_than_the_limit(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"1234")
        with pytest.raises(OSError, match=r"larger than 3 bytes: '.*/file'"):
            files.read_regular(path, 3)

    def test_a_device_without_end(self) -> None:
        with pytest.raises(OSError, match="not a regular file: '/dev/zero'"):
            files.read_regular("/dev/zero", 3)

    def test_a_named_pipe_does_not_block(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(OSError, match="not a regular file"):
            files.read_regular(tmp_path / "pipe", 3)

    def test_children_do_not_get_the_descriptor(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with open(files.open_regular(tmp_path / "file"), "rb") as file:
            assert not os.get_inheritable(file.fileno())

    def test_descriptors_are_closed_after_a_refusal(self, tmp_path: Path) -> None:
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(OSError, match="not a regular"):
            files.open_regular(tmp_path)
        assert len(os.listdir("/proc/self/fd")) <= before


class TestReplacing:
    def test_the_mode_with_any_umask_and_any_old_file(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.touch()
        path.chmod(0o666)
        before = os.umask(0)
        try:
            files.replace_file(path, b"new")
            assert (path.read_bytes(), mode_of(path)) == (b"new", 0o600)
            os.umask(0o777)
            files.replace_file(path, b"newer", 0o644)
            assert (path.read_bytes(), mode_of(path)) == (b"newer", 0o644)
        finally:
            os.umask(before)
        assert os.listdir(tmp_path) == ["file"]

    def test_links_are_replaced_not_followed(self, tmp_path: Path) -> None:
        target = tmp_path / "target"
        target.write_text("old")
        for number, to in enumerate((target, tmp_path / "nowhere")):
            path = tmp_path / str(number)
            path.symlink_to(to)
            files.replace_file(path, b"new")
            assert (path.is_symlink(), path.read_bytes()) == (False, b"new")
        assert target.read_text() == "old"
        assert not (tmp_path / "nowhere").exists()

    def test_a_named_pipe_does_not_block(self, tmp_path: Path) -> None:
        path = tmp_path / "pipe"
        os.mkfifo(path)
        files.replace_file(path, b"new")
        assert path.read_bytes() == b"new"

    @pytest.mark.parametrize("kind", ["device", "socket"])
    def test_a_device_or_socket_stays(self, kind: str, tmp_path: Path) -> None:
        """``--health-file /dev/null`` on a node must not take the device from all programs."""
        path = tmp_path / "special"
        with socket.socket(socket.AF_UNIX) as sock:
            if kind == "socket":
                sock.bind(str(path))
            else:
                try:
                    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
                except PermissionError:
                    pytest.skip("making devices is not permitted")
            before = path.lstat()
            with pytest.raises(FileExistsError, match=r"a device or socket.*special"):
                files.replace_file(path, b"new")
        assert path.lstat() == before
        assert os.listdir(tmp_path) == ["special"]

    def test_nothing_is_left_of_a_failure(self, tmp_path: Path) -> None:
        path = tmp_path / "directory"
        path.mkdir()
        with pytest.raises(OSError, match="directory"):
            files.replace_file(path, b"new")
        assert os.listdir(tmp_path) == ["directory"]
        with pytest.raises(FileNotFoundError, match=r"'.*/none/file'"):
            files.replace_file(tmp_path / "none" / "file", b"new")


class TestWriters:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "above" / "directory" / "file"
        path.parent.mkdir(parents=True)
        path.touch()
        for each in (path, path.parent, path.parent.parent):
            each.chmod(0o755)
        return path

    def test_none_but_this_user(self, path: Path) -> None:
        files.check_writers(path)

    @pytest.mark.parametrize("mode", [0o757, 0o1757, 0o702])
    def test_a_file_or_directory_that_all_may_write(self, mode: int, path: Path) -> None:
        for each in (path, path.parent):
            each.chmod(mode)
            with pytest.raises(PermissionError, match=f"others can write it .*'{each}'"):
                files.check_writers(path)
            each.chmod(0o755)

    def test_a_directory_above(self, path: Path) -> None:
        path.parent.parent.chmod(0o777)
        with pytest.raises(PermissionError, match=r"others can write it \(mode 0777\): '.*/above'"):
            files.check_writers(path)
        # A directory such as /tmp: no other user can rename the entries of this user.
        path.parent.parent.chmod(0o1777)
        files.check_writers(path)

    @as_root
    def test_groups(self, path: Path) -> None:
        path.chmod(0o775)
        files.check_writers(path)
        os.chown(path, 0, OTHERS)
        with pytest.raises(PermissionError, match="others can write it"):
            files.check_writers(path)

    @as_root
    def test_owners(self, path: Path) -> None:
        for each in (path, path.parent, path.parent.parent):
            os.chown(each, OTHERS, 0)
            with pytest.raises(PermissionError, match=f"belongs to user {OTHERS}: '{each}'"):
                files.check_writers(path)
            os.chown(each, 0, 0)

    def test_both_ends_of_a_link(self, path: Path, tmp_path: Path) -> None:
        links = tmp_path / "links"
        links.mkdir(mode=0o755)
        link = links / "link"
        link.symlink_to(path)
        files.check_writers(link)
        links.chmod(0o777)
        with pytest.raises(PermissionError, match=r"'.*/links'"):
            files.check_writers(link)
        links.chmod(0o755)
        path.chmod(0o666)
        with pytest.raises(PermissionError, match=r"'.*/file'"):
            files.check_writers(link)

    def test_each_link_of_a_chain(self, path: Path, tmp_path: Path) -> None:
        links, middle = tmp_path / "links", tmp_path / "middle"
        for each in (links, middle):
            each.mkdir(mode=0o755)
        (links / "first").symlink_to("../middle/../middle/second")
        (middle / "second").symlink_to(path)
        files.check_writers(links / "first")
        for mode in (0o777, 0o1777):
            middle.chmod(mode)
            with pytest.raises(PermissionError, match=r"others can write it .*'.*/middle'"):
                files.check_writers(links / "first")

    def test_a_link_to_a_directory_above(self, path: Path, tmp_path: Path) -> None:
        links = tmp_path / "links"
        links.mkdir(mode=0o777)
        (links / "link").symlink_to(path.parent)
        for mode, accepted in ((0o755, True), (0o777, False), (0o1777, True)):
            links.chmod(mode)
            with (
                contextlib.nullcontext()
                if accepted
                else pytest.raises(PermissionError, match="links'")
            ):
                files.check_writers(links / "link" / path.name)
            with (
                contextlib.nullcontext()
                if accepted
                else pytest.raises(PermissionError, match="links'")
            ):
                files.check_directory(links / "link")

    @as_root
    def test_the_owner_of_a_link_in_a_sticky_directory(self, path: Path, tmp_path: Path) -> None:
        links = tmp_path / "links"
        links.mkdir()
        links.chmod(0o1777)
        (links / "link").symlink_to(path.parent)
        os.chown(links / "link", OTHERS, 0, follow_symlinks=False)
        with pytest.raises(PermissionError, match=f"belongs to user {OTHERS}: '.*/link'"):
            files.check_writers(links / "link" / path.name)

    def test_links_without_end(self, path: Path) -> None:
        link = path.with_name("link")
        link.symlink_to(link)
        with pytest.raises(OSError, match="Too many levels"):
            files.check_writers(link)

    def test_a_relative_path(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(path.parent)
        files.check_writers(f"./../{path.parent.name}//{path.name}")
        path.chmod(0o666)
        with pytest.raises(PermissionError, match=f"'{path}'"):
            files.check_writers(path.name)

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            files.check_writers(tmp_path / "none")


def test_standard_descriptors_that_are_closed() -> None:
    code = """
import os
from nri_sync.files import hold_standard_descriptors
for closed in ((), (0,), (1, 2), (0, 1, 2)):
    saved = {number: os.dup(number) for number in closed}
    for number in closed:
        os.close(number)
    hold_standard_descriptors()
    found = [os.readlink(f"/proc/self/fd/{number}") for number in closed]
    inheritable = [os.get_inheritable(number) for number in range(3)]
    for number, kept in saved.items():
        os.dup2(kept, number)
    assert found == ["/dev/null"] * len(closed), found
    assert all(inheritable)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
