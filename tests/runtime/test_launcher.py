"""Installed plugins: the files that are launched, the environment of their processes, and their end."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

from nri_sync.api import PluginId
from nri_sync.deadline import Deadline
from nri_sync.errors import StartError
from nri_sync.runtime import launcher as module
from nri_sync.runtime.launcher import Installed, Process, discover, launch
from tests.plugin.harness import eventually
from tests.runtime.rig import LONG, SHORT

__all__: list[str] = []


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    path = tmp_path / "plugins"
    path.mkdir()
    return path


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    path = tmp_path / "conf.d"
    path.mkdir()
    return path


def _install(directory: Path, name: str, text: str = "", mode: int = 0o755) -> Path:
    path = directory / name
    path.write_text(text)
    path.chmod(mode)
    return path


class TestDiscover:
    def test_no_directory(self, tmp_path: Path) -> None:
        assert discover(str(tmp_path / "none"), str(tmp_path / "none")) == []

    def test_executables_in_the_order_of_their_names(self, plugins: Path, configs: Path) -> None:
        for name in ("20-b", "10-z", "10-a-b,c", "05-"):
            _install(plugins, name)
        found = discover(str(plugins), str(configs))
        assert [plugin.name for plugin in found] == ["05-", "10-a-b,c", "10-z", "20-b"]
        assert found[1] == Installed(PluginId("10", "a-b,c"), str(plugins / "10-a-b,c"), "")

    def test_files_that_are_no_plugins(self, plugins: Path, configs: Path) -> None:
        (plugins / "directory").mkdir()
        _install(plugins, "README", mode=0o644)
        _install(plugins, "10-no", mode=0o644)
        _install(plugins, "20-for-others", mode=0o001)
        assert [plugin.name for plugin in discover(str(plugins), str(configs))] == ["20-for-others"]

    def test_links_count_as_executable(self, plugins: Path, configs: Path) -> None:
        (plugins / "10-dangling").symlink_to("nowhere")
        (plugins / "20-directory").symlink_to(plugins)
        found = discover(str(plugins), str(configs))
        assert [plugin.name for plugin in found] == ["10-dangling", "20-directory"]

    @pytest.mark.parametrize("name", ["foo", "1-foo", "1a-foo"])
    def test_a_bad_name(self, name: str, plugins: Path, configs: Path) -> None:
        _install(plugins, name)
        with pytest.raises(StartError, match=f"cannot launch .*{name}: plugin") as error:
            discover(str(plugins), str(configs))
        assert error.value.phase == "discover"

    def test_a_directory_that_cannot_be_read(self, tmp_path: Path) -> None:
        path = _install(tmp_path, "file")
        with pytest.raises(StartError, match="cannot read the plugin directory"):
            discover(str(path), "")

    def test_the_configuration_of_full_name_or_name(self, plugins: Path, configs: Path) -> None:
        for name in ("10-a", "20-a", "30-b"):
            _install(plugins, name)
        (configs / "10-a.conf").write_text("ten: ü\n")
        (configs / "a.conf").write_text("any")
        found = discover(str(plugins), str(configs))
        assert [plugin.config for plugin in found] == ["ten: ü\n", "any", ""]

    def test_a_configuration_that_is_no_file_or_too_large(
        self, plugins: Path, configs: Path
    ) -> None:
        _install(plugins, "10-a")
        os.mkfifo(configs / "a.conf")
        with pytest.raises(StartError, match=r"a\.conf of plugin 10-a: .*not a regular file"):
            discover(str(plugins), str(configs))
        with (configs / "10-a.conf").open("wb") as file:
            file.truncate((4 << 20) + 1)
        with pytest.raises(StartError, match="larger than 4,194,304 bytes"):
            discover(str(plugins), str(configs))

    def test_a_name_with_no_room_for_the_suffix(self, plugins: Path, configs: Path) -> None:
        name = "n" * 252
        _install(plugins, f"10-{name}")
        (configs / f"{name[:-4]}.conf").write_text("of another plugin")
        assert [(p.identity.name, p.config) for p in discover(str(plugins), str(configs))] == [
            (name, "")
        ]

    def test_a_configuration_that_cannot_be_read(self, plugins: Path, configs: Path) -> None:
        _install(plugins, "10-a")
        (configs / "10-a.conf").mkdir()
        with pytest.raises(StartError, match=r"cannot read the configuration .* of plugin 10-a"):
            discover(str(plugins), str(configs))


Launch = Callable[..., Process]


class TestLaunch:
    @pytest.fixture
    def launch(self, plugins: Path) -> Iterator[Launch]:
        """Launches a shell script, and kills the processes after the test."""
        made: list[Process] = []

        def run(text: str, *, name: str = "10-test", grace: float = LONG) -> Process:
            path = _install(plugins, name, f"#!/bin/sh\n{text}\n")
            idx, _, base = name.partition("-")
            process, sock = launch(Installed(PluginId(idx, base), str(path), ""), grace=grace)
            sock.close()
            made.append(process)
            return process

        yield run
        for process in made:
            if not process.ended.is_set():
                os.kill(process.pid, signal.SIGKILL)
            assert process.ended.wait(Deadline(LONG))

    def test_environment_and_descriptors(self, plugins: Path, tmp_path: Path) -> None:
        code = (
            f"#!{sys.executable} -IS\n"
            "import os, socket, sys\n"
            "open(os.path.dirname(sys.argv[0]) + '/../out', 'w').write(repr((\n"
            "    {k: v for k, v in os.environ.items() if k.startswith('NRI')}, len(sys.argv),\n"
            "    os.path.realpath('/proc/self/fd/0'), os.path.realpath('/proc/self/cwd'),\n"
            "    sorted(int(fd) for fd in os.listdir('/proc/self/fd'))[:4],\n"
            "    [v.partition('=')[0] for v in open('/proc/self/environ').read().split('\\0') if v],\n"
            ")))\n"
            "sock = socket.socket(fileno=int(os.environ['NRI_PLUGIN_SOCKET']))\n"
            "sock.sendall(sock.recv(5)[::-1])\n"
        )
        path = _install(plugins, "10-test", code)
        process, sock = launch(Installed(PluginId("10", "test"), str(path), ""), grace=LONG)
        with sock:
            sock.sendall(b"hello")
            assert sock.recv(5) == b"olleh"
        process.end()
        variables = {"NRI_PLUGIN_NAME": "test", "NRI_PLUGIN_IDX": "10", "NRI_PLUGIN_SOCKET": "3"}
        assert (tmp_path / "out").read_text() == repr(
            (variables, 1, "/dev/null", os.getcwd(), [0, 1, 2, 3], list(variables))
        )

    def test_the_application_keeps_its_descriptors(self, plugins: Path, tmp_path: Path) -> None:
        code = (
            f"#!{sys.executable} -IS\n"
            "import os, sys\n"
            "listing = os.open('/proc/self/fd', os.O_RDONLY)\n"
            "found = sorted(map(int, os.listdir(listing)))\n"
            "found = [fd for fd in found if os.path.exists(f'/proc/self/fd/{fd}') and fd != listing]\n"
            "open(os.path.dirname(sys.argv[0]) + '/../out', 'w').write(repr(found))\n"
        )
        path = _install(plugins, "10-test", code)
        low, high = os.open(os.devnull, os.O_RDONLY), os.dup2(2, 200)
        os.set_inheritable(low, True)
        try:
            process, sock = launch(Installed(PluginId("10", "test"), str(path), ""), grace=LONG)
        finally:
            for fd in (low, high):
                os.close(fd)
        with sock:
            assert process.ended.wait(Deadline(LONG))
        assert (tmp_path / "out").read_text() == "[0, 1, 2, 3]"

    def test_inheritable_descriptors_above_a_lowered_limit(
        self, plugins: Path, tmp_path: Path
    ) -> None:
        code = """
import fcntl, os, resource, sys
from nri_sync.api import PluginId
from nri_sync.runtime.launcher import Installed, launch
high = fcntl.fcntl(1, fcntl.F_DUPFD, 700)
os.set_inheritable(high, True)
resource.setrlimit(resource.RLIMIT_NOFILE, (600, 600))
try:
    process, sock = launch(Installed(PluginId("10", "test"), sys.argv[1], ""), grace=60)
except OSError as error:
    assert not hasattr(os, "POSIX_SPAWN_CLOSEFROM"), error
    assert "700 is above the limit of 600 open files" in str(error), error
    print("closed")
else:
    sock.close()
    process.ended.wait()
    print(open(sys.argv[2]).read())
"""
        out = tmp_path / "out"
        script = f"#!/bin/sh\ntest -e /proc/self/fd/700 && echo open >{out} || echo closed >{out}\n"
        path = _install(plugins, "10-test", script)
        done = subprocess.run(
            [sys.executable, "-c", code, path, out], check=True, stdout=subprocess.PIPE, text=True
        )
        assert done.stdout.strip() == "closed"

    def test_signals_are_as_a_new_process_has_them(self, launch: Launch, tmp_path: Path) -> None:
        # Python ignores SIGPIPE and SIGXFSZ, and the application ignores more.
        ignored = [signal.SIGHUP, signal.SIGTERM, signal.SIGUSR2]
        actions = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR1])
        try:
            process = launch(
                f'while read -r line; do echo "$line"; done </proc/self/status >{tmp_path}/out'
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            for number, action in actions.items():
                signal.signal(number, action)
        assert process.ended.wait(Deadline(LONG))
        found = dict(line.split(":", 1) for line in (tmp_path / "out").read_text().splitlines())
        assert int(found["SigBlk"], 16) == 0
        for number in (signal.SIGPIPE, signal.SIGXFSZ, *ignored):
            assert not int(found["SigIgn"], 16) & 1 << number - 1, number

    def test_other_children_do_not_get_its_descriptors(self, plugins: Path) -> None:
        # Child processes that another thread starts during the launch.
        spawn = os.posix_spawn
        found = []

        def inheritable() -> set[int]:
            inherited = set()
            for fd in map(int, os.listdir("/proc/self/fd")):
                with contextlib.suppress(OSError):  # the descriptor of the listing
                    if os.get_inheritable(fd):
                        inherited.add(fd)
            return inherited

        def watched(*args: Any, **options: Any) -> int:
            found.append(inheritable())
            return spawn(*args, **options)

        before = inheritable()

        path = _install(plugins, "10-test", "#!/bin/sh\n")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "posix_spawn", watched)
            process, sock = launch(Installed(PluginId("10", "test"), str(path), ""), grace=LONG)
        with sock:
            assert process.ended.wait(Deadline(LONG))
        assert found == [before]

    def test_the_output_is_logged(self, launch: Launch, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "nri_sync.runtime.plugin")
        process = launch("echo one; echo two >&2; printf 'three\\200'")
        assert process.ended.wait(Deadline(LONG))
        assert caplog.messages == [
            "10-test: one",
            "10-test: two",
            "10-test: three\\x80",
            f"10-test: process {process.pid} exited with status 0",
        ]

    def test_a_line_without_end_is_logged_in_pieces(
        self, launch: Launch, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "nri_sync.runtime.plugin")
        process = launch("head -c 100000 /dev/zero | tr '\\0' x")
        assert process.ended.wait(Deadline(LONG))
        lines = [m[len("10-test: ") :] for m in caplog.messages if m.startswith("10-test: x")]
        assert "".join(lines) == "x" * 100_000
        assert max(map(len, lines)) <= 8192

    def test_a_long_line_is_logged_in_pieces(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "nri_sync.runtime.plugin")
        lines = module.OutputLog("10-test")
        read_end, write_end = os.pipe()
        try:
            for data in (b"\xc3\xa4" * 25_000 + b"\nshort\n\n" + b"y" * 8192, b"\n"):
                os.write(write_end, data)
                lines.read(read_end)
        finally:
            os.close(read_end)
            os.close(write_end)
        found = [m[len("10-test: ") :] for m in caplog.messages]
        assert [len(m) for m in found] == [4096] * 6 + [424, 5, 0, 8192]
        assert "".join(found[:7]) == "ä" * 25_000

    def test_a_line_of_escapes_is_shortened(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "nri_sync.runtime.plugin")
        module.OutputLog("10-test").log(b"\x01" * 8192)
        assert caplog.messages == ["10-test: " + "\\x01" * 2048 + "... (8192 characters)"]

    def test_output_without_end_fills_no_log(
        self, launch: Launch, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        caplog.set_level(logging.INFO, "nri_sync.runtime.plugin")
        monkeypatch.setattr(module, "LINES_A_SECOND", 0.001)
        process = launch("yes flood | head -n 200000; yes flood | head -n 100000 >&2")
        assert process.ended.wait(Deadline(LONG))
        lines = [m for m in caplog.messages if m == "10-test: flood"]
        assert len(lines) == module.LINES_AT_ONCE == 2000
        assert caplog.messages[2000].startswith("10-test: 298000 lines of its output are left out")
        assert caplog.messages[2001] == f"10-test: process {process.pid} exited with status 0"

    def test_after_a_flood_lines_are_logged_again(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        caplog.set_level(logging.INFO, "nri_sync.runtime.plugin")
        now = [100.0]
        monkeypatch.setattr(time, "monotonic", lambda: now[0])
        lines = module.OutputLog("10-test")
        for _ in range(2500):
            lines.log(b"x")
        now[0] += 0.02
        lines.log(b"y")
        assert caplog.messages[2000:] == [
            "10-test: 500 lines of its output are left out: more than 100 a second",
            "10-test: y",
        ]

    def test_the_end_does_not_wait_for_children_that_keep_the_output_open(
        self, launch: Launch, plugins: Path
    ) -> None:
        process = launch("sleep 60 & echo $! > $0.pid")
        process.end()
        assert process.ended.is_set()
        os.kill(int((plugins / "10-test.pid").read_text()), signal.SIGKILL)

    def test_a_bad_end_is_logged(self, launch: Launch, caplog: pytest.LogCaptureFixture) -> None:
        process = launch("kill -USR1 $$")
        assert process.ended.wait(Deadline(LONG))
        assert caplog.messages == [
            f"10-test: process {process.pid} was ended by signal {int(signal.SIGUSR1)}"
        ]

    def test_ends_by_itself_then_by_sigterm_then_by_sigkill(
        self,
        launch: Launch,
        plugins: Path,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        gentle = launch("exec cat <&3")  # until its connection is closed
        gentle.end()
        assert caplog.messages == []
        slow = launch("exec sleep 60", grace=SHORT)
        send = signal.pidfd_send_signal

        def send_then_be_patient(pidfd: int, number: int) -> None:
            slow._grace = LONG  # the process is ended late on a busy machine
            send(pidfd, number)

        with monkeypatch.context() as patch:
            patch.setattr(signal, "pidfd_send_signal", send_then_be_patient)
            slow.end()
        assert [m.rpartition(" ")[2] for m in caplog.messages] == ["SIGTERM"]
        caplog.clear()
        ready = plugins / "ready"
        deaf = launch(f"trap '' TERM; : >{ready}; while :; do sleep 0.01; done", grace=SHORT)
        eventually(ready.exists)
        deaf.end()
        assert [m.rpartition(" ")[2] for m in caplog.messages] == ["SIGTERM", "SIGKILL"]

    def test_no_process_stays_a_zombie(self, launch: Launch) -> None:
        process = launch("exit 3")
        eventually(lambda: not os.path.exists(f"/proc/{process.pid}"), "the end of the process")
        process.end()
        with pytest.raises(ChildProcessError):
            os.waitpid(process.pid, os.WNOHANG)

    def test_a_child_that_other_code_reaps(
        self, launch: Launch, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def reaped(pid: int, options: int) -> tuple[int, int]:
            real(pid, options)
            raise ChildProcessError

        real = os.waitpid
        monkeypatch.setattr(os, "waitpid", reaped)
        process = launch("exit 0")
        assert process.ended.wait(Deadline(LONG))
        assert caplog.messages == [f"10-test: process {process.pid} was reaped by other code"]

    @pytest.mark.parametrize(
        ("content", "error"),
        [
            (b"\0asm\x01\0\0\0rest", "WebAssembly"),
            (b"#!/nowhere/interpreter\n", "No such file"),
            (b"\x7fELF", "format error"),
        ],
    )
    def test_files_that_cannot_be_executed(self, content: bytes, error: str, plugins: Path) -> None:
        path = plugins / "10-test"
        path.write_bytes(content)
        path.chmod(0o755)
        with pytest.raises(OSError, match=error):
            launch(Installed(PluginId("10", "test"), str(path), ""), grace=LONG)

    def test_a_named_pipe_does_not_block(self, plugins: Path) -> None:
        os.mkfifo(plugins / "10-test", 0o755)
        with pytest.raises(OSError, match="not a regular file"):
            launch(Installed(PluginId("10", "test"), str(plugins / "10-test"), ""), grace=LONG)

    @pytest.mark.parametrize("place", ["10-test", ".", "../conf.d/test.conf", "../conf.d", ".."])
    def test_files_that_others_can_write_are_not_launched(
        self, place: str, plugins: Path, configs: Path
    ) -> None:
        path = _install(plugins, "10-test", "#!/bin/sh\nexit 1\n")
        _install(configs, "test.conf", mode=0o644)
        [installed] = discover(str(plugins), str(configs))
        (plugins / place).chmod(0o757)
        with pytest.raises(PermissionError, match="others can write it"):
            launch(installed, grace=LONG)
        assert path.exists()
