"""Locks between processes: each way to get one, and each way to lose it."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nri_sync.plugin import turns
from nri_sync.plugin.turns import Silence, Turn
from tests.forked import WARNS
from tests.plugin.harness import LONG, eventually

__all__: list[str] = []

HOLDER = """
import sys
from nri_sync.plugin.turns import Turn
turn = Turn(sys.argv[1])
assert turn.take()
turn.sign(b"busy")
print("taken", flush=True)
sys.stdin.read()
"""


@contextmanager
def holder(path: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, path],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "taken\n"
            yield process
        finally:
            process.kill()
            process.wait(LONG)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "turn")


class TestTurn:
    def test_one_at_a_time(self, path: str) -> None:
        first, second = Turn(path), Turn(path)
        assert first.take()
        assert not second.take()
        assert (first.is_held, second.is_held) == (True, False)
        first.drop()
        assert second.take()
        assert (first.is_mine(), second.is_mine()) == (False, True)
        second.drop()
        second.drop()

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_it_ends_with_the_process(self, path: str, number: signal.Signals) -> None:
        turn = Turn(path)
        with holder(path) as process:
            assert not turn.take()
            process.send_signal(number)
            process.wait(LONG)
            assert turn.take()
        turn.drop()

    def test_words_of_the_holder(self, path: str) -> None:
        turn = Turn(path)
        assert turn.read() == (b"", 0)
        with holder(path):
            word, time = turn.read()
            assert word == b"busy"
            assert time > 0
        turn.sign(b"not mine")
        assert turn.read()[0] == b"busy"
        assert turn.take()
        assert turn.read()[0] == b""
        turn.sign(b"longer word")
        turn.sign(b"word")
        turn.sign()
        assert turn.read()[0] == b"word"
        turn.drop()
        assert turn.read()[0] == b""

    def test_a_process_that_is_stopped_is_replaced(self, path: str) -> None:
        turn, third = Turn(path), Turn(path)
        with holder(path) as process:
            process.send_signal(signal.SIGSTOP)
            assert not turn.take()
            turn.take_over()
            assert turn.is_mine()
            assert not third.take()
            process.kill()
            process.wait(LONG)
            # The lock of the one that was replaced was on another file.
            assert not third.take()
        turn.drop()
        assert third.take()
        third.drop()
        assert os.listdir(os.path.dirname(path)) == ["turn"]

    def test_the_file_of_a_process_that_died_meanwhile_is_replaced(self, path: str) -> None:
        """An earlier process with the same id died between the two steps of taking over."""
        Path(f"{path}.{os.getpid()}").touch()
        turn = Turn(path)
        turn.take_over()
        assert turn.is_mine()
        turn.drop()
        assert os.listdir(os.path.dirname(path)) == ["turn"]

    def test_the_one_that_was_replaced_sees_it(self, path: str) -> None:
        first, second = Turn(path), Turn(path)
        assert first.take()
        second.take_over()
        assert first.is_held
        assert not first.is_mine()
        first.drop()
        assert second.is_mine()
        second.drop()

    def test_replaced_between_open_and_lock(
        self, path: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        late, other = Turn(path), Turn(path)
        opened = turns.open_file

        def replaced_meanwhile(path: str, flags: int) -> object:
            file = opened(path, flags)
            monkeypatch.setattr(turns, "open_file", opened)
            other.take_over()
            return file

        monkeypatch.setattr(turns, "open_file", replaced_meanwhile)
        assert not late.take()
        assert other.is_mine()
        other.drop()
        assert late.take()
        late.drop()

    @WARNS
    def test_a_forked_child_does_not_keep_it(self, path: str) -> None:
        turn, other = Turn(path), Turn(path)
        assert turn.take()
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(writer)
                os.read(reader, 1)
            finally:
                os._exit(int(turn.is_held))
        os.close(reader)
        try:
            assert not other.take()
            turn.drop()
            assert other.take()
            other.drop()
        finally:
            os.close(writer)
            assert os.waitpid(child, 0)[1] == 0

    def test_where_it_cannot_be(self, tmp_path: Path) -> None:
        missing = Turn(str(tmp_path / "missing" / "turn"))
        with pytest.raises(FileNotFoundError):
            missing.take()
        assert missing.read() == (b"", 0)
        (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(OSError, match="symbolic links"):
            Turn(str(tmp_path / "link")).take()
        assert not (tmp_path / "elsewhere").exists()

    def test_a_named_pipe_does_not_block(self, path: str) -> None:
        os.mkfifo(path)
        turn = Turn(path)
        assert turn.read() == (b"", 0)
        with pytest.raises(OSError, match="not a regular file"):
            turn.take()
        turn.take_over()
        assert turn.is_mine()
        turn.drop()

    def test_the_mode_with_any_umask(self, path: str) -> None:
        before = os.umask(0)
        try:
            turn = Turn(path)
            assert turn.take()
        finally:
            os.umask(before)
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        turn.drop()

    def test_a_file_of_another_user_is_refused(
        self, path: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        turn = Turn(path)
        assert turn.take()
        turn.sign(b"leaving")
        turn.drop()
        # As if this process belonged to another user than the file, which is not root's either.
        found = os.stat(path)
        theirs = os.stat_result((*found[:4], found.st_uid + 1, *found[5:]))
        monkeypatch.setattr(os, "fstat", lambda descriptor: theirs)
        before = os.listdir("/proc/self/fd")
        with pytest.raises(PermissionError, match="belongs to user"):
            turn.take()
        assert turn.read() == (b"", 0)
        assert len(os.listdir("/proc/self/fd")) <= len(before)


class TestSilence:
    def test_signs_break_it(self, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
        now = 100.0
        monkeypatch.setattr("nri_sync.plugin.turns.time.monotonic", lambda: now)
        turn = Turn(path)
        assert turn.take()
        silence = Silence(turn)
        now += 3
        assert silence.seconds() == 3
        before = turn.read()[1]

        def signed() -> bool:
            turn.sign()
            return turn.read()[1] != before

        eventually(signed)  # the clock of the file system has ticks
        assert silence.seconds() == 0
        now += 2
        assert silence.seconds() == 2
        turn.drop()
