"""The identity of a plugin, and the source of its connections."""

from __future__ import annotations

import errno
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

from nri_sync import api
from nri_sync.api import PluginId
from nri_sync.deadline import Deadline
from nri_sync.errors import ConnectionSpent, IdentityError
from nri_sync.net.sockets import listen
from nri_sync.plugin.source import Source, identify
from tests.plugin.harness import LONG, descriptors

__all__: list[str] = []


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets the file name of the program."""
    return lambda name: monkeypatch.setattr(sys, "argv", [f"/opt/nri/plugins/{name}", "--verbose"])


class TestIdentity:
    @pytest.mark.parametrize(
        ("name", "idx", "expected"),
        [
            ("injector", "10", PluginId("10", "injector")),
            ("injector", 10, PluginId("10", "injector")),
            ("injector", 5, PluginId("05", "injector")),
            ("injector", 0, PluginId("00", "injector")),
            ("10-injector", "99", PluginId("99", "10-injector")),
            ("a.b_c+d-e", "00", PluginId("00", "a.b_c+d-e")),
        ],
    )
    def test_given(self, name: str, idx: Any, expected: PluginId) -> None:
        assert identify(name, idx) == expected

    def test_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NRI_PLUGIN_NAME", "from-env")
        monkeypatch.setenv("NRI_PLUGIN_IDX", "77")
        assert identify(None, None) == PluginId("77", "from-env")
        # An argument wins over the environment, for name and index.
        assert identify("given", None) == PluginId("77", "given")
        assert identify(None, 3) == PluginId("03", "from-env")
        assert identify("given", "03") == PluginId("03", "given")

    def test_from_the_file_name(self, program: Callable[[str], None]) -> None:
        program("45-logger")
        assert identify(None, None) == PluginId("45", "logger")
        program("45-template-logger")
        assert identify(None, None) == PluginId("45", "template-logger")

    def test_the_whole_file_name_where_the_index_is_known(
        self, program: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        program("10-bar")
        assert identify(None, 20) == PluginId("20", "10-bar")
        monkeypatch.setenv("NRI_PLUGIN_IDX", "30")
        assert identify(None, None) == PluginId("30", "10-bar")

    def test_empty_variables_are_none(
        self, program: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        program("45-logger")
        monkeypatch.setenv("NRI_PLUGIN_NAME", "")
        monkeypatch.setenv("NRI_PLUGIN_IDX", "")
        assert identify(None, None) == PluginId("45", "logger")

    def test_no_index(self, program: Callable[[str], None]) -> None:
        program("logger.py")
        with pytest.raises(IdentityError) as caught:
            identify("logger", None)
        text = str(caught.value)
        assert "the plugin has no index: pass idx=, set NRI_PLUGIN_IDX, or name the program" in text
        assert "logger.py" in text
        # No runtime has a say in that.
        assert "the runtime would refuse" not in text

    @pytest.mark.parametrize("idx", ["5", "100", "", "1x", "-1", " 1", "\uff11\uff12", -5, 100])
    def test_a_wrong_index(self, idx: Any) -> None:
        with pytest.raises(
            IdentityError, match=r"is not two decimal digits.*the runtime would refuse"
        ):
            identify("logger", idx)

    @pytest.mark.parametrize("name", ["", "a b", "a/b", "naïve", "a\n"])
    def test_a_wrong_name(self, name: str) -> None:
        with pytest.raises(
            IdentityError, match=r"plugin name.*the runtime would refuse it: pass name="
        ):
            identify(name, "10")

    @pytest.mark.parametrize(("name", "idx"), [(b"logger", "10"), ("logger", 1.0), (7, "10")])
    def test_wrong_types(self, name: Any, idx: Any) -> None:
        with pytest.raises(IdentityError):
            identify(name, idx)

    def test_wrong_ones_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NRI_PLUGIN_IDX", "7")
        with pytest.raises(IdentityError, match="plugin index '7'"):
            identify("logger", None)

    def test_a_program_without_a_file_name(
        self, monkeypatch: pytest.MonkeyPatch, program: Callable[[str], None]
    ) -> None:
        monkeypatch.setattr(sys, "argv", [""])
        with pytest.raises(IdentityError, match="plugin name is empty"):
            identify(None, "10")
        program("10-")
        with pytest.raises(IdentityError, match="plugin name is empty"):
            identify(None, None)
        monkeypatch.delattr(sys, "argv")
        with pytest.raises(IdentityError, match="has no index"):
            identify(None, None)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def open_now(source: Source) -> socket.socket:
    return source.open(Deadline(LONG), lambda: False)


class TestGivenConnection:
    def test_is_used_once(self, pair: tuple[socket.socket, socket.socket]) -> None:
        source = Source(pair[0], None, None)
        assert source.describe() == "the connection that was given"
        assert open_now(source) is pair[0]
        with pytest.raises(ConnectionSpent, match="given to the stub has been used") as caught:
            open_now(source)
        assert "pass dialer= or socket_path= as well" in str(caught.value)

    def test_then_the_dialer(self, pair: tuple[socket.socket, socket.socket]) -> None:
        source = Source(pair[0], lambda path: pair[1], None)
        assert open_now(source) is pair[0]
        assert open_now(source) is pair[1]

    def test_then_the_socket_path(
        self, pair: tuple[socket.socket, socket.socket], socket_dir: Path
    ) -> None:
        path = str(socket_dir / "s")
        source = Source(pair[0], None, path)
        assert open_now(source) is pair[0]
        assert source.describe() == path
        with listen(path), open_now(source) as sock:
            assert sock.getpeername() == path

    def test_it_must_be_a_socket(self) -> None:
        with pytest.raises(TypeError, match="connection must be a socket, not int"):
            Source(3, None, None)  # type: ignore[arg-type]

    def test_it_must_be_open(self, pair: tuple[socket.socket, socket.socket]) -> None:
        pair[0].close()
        with pytest.raises(IdentityError, match="is closed"):
            Source(pair[0], None, None)

    def test_it_must_be_a_stream(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        with sock, pytest.raises(IdentityError, match=r"SOCK_DGRAM.*, no stream"):
            Source(sock, None, None)

    def test_it_must_be_connected(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with sock, pytest.raises(IdentityError, match="is not connected"):
            Source(sock, None, None)


class TestInheritedConnection:
    @pytest.fixture(autouse=True)
    def _variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NRI_PLUGIN_SOCKET", "-1")  # so that it is restored
        self._monkeypatch = monkeypatch

    def set(self, value: object) -> None:
        self._monkeypatch.setenv("NRI_PLUGIN_SOCKET", str(value))

    def test_is_taken_over(self, pair: tuple[socket.socket, socket.socket]) -> None:
        fd = os.dup(pair[0].fileno())
        os.set_inheritable(fd, True)
        self.set(fd)
        source = Source(None, None, None)
        assert "NRI_PLUGIN_SOCKET" not in os.environ
        assert not os.get_inheritable(fd)
        with open_now(source) as sock:
            assert sock.fileno() == fd
            sock.sendall(b"x")
            assert pair[1].recv(2) == b"x"
        with pytest.raises(
            ConnectionSpent, match="the runtime launched this plugin with one connection"
        ):
            open_now(source)

    def test_wins_over_path_and_dialer(self, pair: tuple[socket.socket, socket.socket]) -> None:
        self.set(os.dup(pair[0].fileno()))
        source = Source(None, lambda path: pair[1], "/nowhere")
        with open_now(source) as sock:
            assert sock.fileno() not in (pair[0].fileno(), pair[1].fileno())

    def test_a_given_connection_wins_over_it(
        self, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        assert open_now(Source(pair[0], None, None)) is pair[0]
        assert os.environ["NRI_PLUGIN_SOCKET"] == "-1"

    def test_empty_is_not_set(self) -> None:
        self.set("")
        assert Source(None, None, "/nowhere").describe() == "/nowhere"

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            ("three", "NRI_PLUGIN_SOCKET=three is not the number of a file descriptor"),
            ("3.0", "is not the number"),
            ("0x3", "is not the number"),
            ("-1", "NRI_PLUGIN_SOCKET=-1 is not an open file descriptor"),
            ("99999", "NRI_PLUGIN_SOCKET=99999 is not an open file descriptor"),
            (str(2**70), "is not an open file descriptor"),
        ],
    )
    def test_invalid_descriptors(self, value: str, text: str) -> None:
        self.set(value)
        with pytest.raises(IdentityError, match=text):
            Source(None, None, None)
        assert os.environ["NRI_PLUGIN_SOCKET"] == value

    def test_a_file(self) -> None:
        with tempfile.TemporaryFile() as file:
            self.set(file.fileno())
            with pytest.raises(IdentityError, match="is not a connected unix socket"):
                Source(None, None, None)
            assert file.read() == b""  # it was not closed

    @pytest.mark.parametrize(
        ("family", "kind"),
        [
            (socket.AF_UNIX, socket.SOCK_DGRAM),
            (socket.AF_INET, socket.SOCK_STREAM),
            (socket.AF_UNIX, socket.SOCK_STREAM),
        ],
    )
    def test_a_socket_that_is_not_connected_or_of_another_kind(
        self, family: int, kind: int
    ) -> None:
        with socket.socket(family, kind) as sock:
            self.set(sock.fileno())
            with pytest.raises(IdentityError, match="is not a connected unix socket"):
                Source(None, None, None)
            assert sock.fileno() >= 0
            os.fstat(sock.fileno())


class TestDialing:
    def test_the_default_path(self) -> None:
        assert Source(None, None, None).describe() == api.DEFAULT_SOCKET_PATH

    def test_the_dialer_gets_the_path(self, pair: tuple[socket.socket, socket.socket]) -> None:
        asked = []

        def dialer(path: str) -> socket.socket:
            asked.append(path)
            return pair[0]

        assert open_now(Source(None, dialer, "/some/path")) is pair[0]
        assert open_now(Source(None, dialer, None)) is pair[0]
        assert asked == ["/some/path", api.DEFAULT_SOCKET_PATH]

    def test_a_dialer_that_returns_something_else(self) -> None:
        source = Source(None, lambda path: 3, "/x")  # type: ignore[arg-type,return-value]
        with pytest.raises(TypeError, match="the dialer returned int, not a connected socket"):
            open_now(source)

    def test_explains_the_exception_of_a_dialer(self) -> None:
        def dialer(path: str) -> socket.socket:
            raise KeyError("ssh")

        source = Source(None, dialer, "/x")
        with pytest.raises(KeyError) as caught:
            open_now(source)
        assert source.explain(caught.value) == "the dialer failed for /x: KeyError: 'ssh'"

    def test_a_full_backlog_ends_at_the_deadline(self, socket_dir: Path) -> None:
        path = str(socket_dir / "s")
        with listen(path, backlog=0), socket.socket(socket.AF_UNIX) as first:
            first.connect(path)
            before = descriptors()
            source = Source(None, None, path)
            with pytest.raises(TimeoutError) as caught:
                source.open(Deadline(0.12), lambda: False)
            assert "accepts no more connections" in source.explain(caught.value)
            assert descriptors() <= before

    def test_a_full_backlog_ends_when_it_is_not_wanted_any_more(self, socket_dir: Path) -> None:
        path = str(socket_dir / "s")
        asked: list[None] = []

        def unwanted() -> bool:
            asked.append(None)
            return len(asked) == 2

        with listen(path, backlog=0), socket.socket(socket.AF_UNIX) as first:
            first.connect(path)
            with pytest.raises(TimeoutError):
                Source(None, None, path).open(Deadline(LONG), unwanted)
        assert len(asked) == 2

    def test_a_full_backlog_that_is_served_after_all(self, socket_dir: Path) -> None:
        path = str(socket_dir / "s")
        listener = listen(path, backlog=0)
        accepted = []

        def accept() -> bool:
            accepted.append(listener.accept()[0])
            return False

        with listener, socket.socket(socket.AF_UNIX) as first:
            first.connect(path)
            with Source(None, None, path).open(Deadline(LONG), accept) as sock:
                assert sock.getpeername() == path
        for sock in accepted:
            sock.close()


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            FileNotFoundError(2, "No such file or directory"),
            "/s: No such file or directory; is the run",
        ),
        (
            PermissionError(13, "Permission denied"),
            "/s: Permission denied; the socket belongs to root",
        ),
        (ConnectionRefusedError(111, "Connection refused"), "; no process listens there"),
        (OSError(errno.EPROTOTYPE, "Protocol wrong type"), "; this is a socket of another type"),
        (OSError("AF_UNIX path too long"), "/s: AF_UNIX path too long"),
        (ValueError("embedded null byte"), "/s: embedded null byte"),
        (ValueError(), "/s: ValueError()"),
    ],
)
def test_explanations(error: Exception, text: str) -> None:
    assert text in Source(None, None, "/s").explain(error)
