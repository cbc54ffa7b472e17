"""Every way in which a start fails: the exception, the phase, the message, and when.

The table "When start() fails" of docs/lifecycle.md is compared with these failures.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, NamedTuple

import grpc
import pytest

import nri_sync
from nri_sync import api, errors
from nri_sync.api import EventMask
from nri_sync.net.sockets import listen
from nri_sync.plugin.source import Source
from nri_sync.plugin.state import State
from nri_sync.rpc import envelope_pb2
from tests.plugin.conftest import MakeStub
from tests.plugin.harness import (
    LONG,
    PluginWith,
    RawRuntime,
    configuration,
    descriptors,
    eventually,
)

__all__: list[str] = []

PAGE = Path(__file__).resolve().parents[2] / "docs" / "lifecycle.md"

#: Seconds for a start without an answer.
TIMEOUT = 1.0
AT_ONCE = "at once"
AT_THE_DEADLINE = "at the deadline"

NOT_THERE = (
    "cannot connect: PATH: No such file or directory; is the runtime running, with NRI enabled, and is "
    "this its nri socket path?"
)
REFUSED = (
    "cannot connect: PATH: Connection refused; no process listens there: the runtime has stopped, or this is "
    "not a socket"
)
NO_REGISTRATION = (
    "before it answered RegisterPlugin; is this the socket of an NRI runtime? one that is stopping, or "
    "busy, closes it too"
)
NO_CONFIGURE = (
    "after the registration, before the plugin was configured; the runtime took too long over others, or "
    "stopped; see its log"
)
CLOSED = "the peer closed the connection"
OVER = "the time for starting was over while waiting"


class Expected(NamedTuple):
    situation: str
    error: str
    phase: str
    message: str
    when: str = AT_ONCE


TABLE = {
    "no_socket": Expected("there is no socket", "StartError", "dial", NOT_THERE),
    "no_permission": Expected(
        "the socket belongs to another user",
        "StartError",
        "dial",
        "cannot connect: PATH: Permission denied; the socket belongs to root as a rule; run the plugin as "
        "a user that may use it",
    ),
    "stale_socket": Expected("the socket has no listener", "StartError", "dial", REFUSED),
    "file": Expected("the path is that of a file", "StartError", "dial", REFUSED),
    "datagrams": Expected(
        "the socket is one for datagrams",
        "StartError",
        "dial",
        "cannot connect: PATH: Protocol wrong type for socket; this is a socket of another type, not that "
        "of a runtime",
    ),
    "no_descriptors": Expected(
        "the process has no more file descriptors",
        "StartError",
        "dial",
        "cannot connect: PATH: Too many open files; this process has run out of file descriptors, see "
        "ulimit -n",
    ),
    "full_backlog": Expected(
        "the runtime accepts no connections",
        "StartTimeout",
        "dial",
        f"{OVER} to connect; does the runtime still accept connections?",
        AT_THE_DEADLINE,
    ),
    "dialer": Expected(
        "the dialer raises",
        "StartError",
        "dial",
        "cannot connect: the dialer failed for PATH: KeyError: 'tunnel'",
    ),
    "spent": Expected(
        "the one connection has been used",
        "ConnectionSpent",
        "dial",
        "the connection given to the stub has been used up; to start again, pass dialer= or socket_path= "
        "as well",
    ),
    "closes_at_once": Expected(
        "the peer closes at once", "StartError", "register", f"{CLOSED} {NO_REGISTRATION}"
    ),
    "http": Expected(
        "the peer is an HTTP server",
        "StartError",
        "register",
        "mux frame for connection 1213486160 claims 791752241 bytes, more than the 4194314 that a frame "
        f"may hold {NO_REGISTRATION}",
    ),
    "echo": Expected(
        "the peer sends everything back",
        "StartError",
        "register",
        "the runtime refused the registration: unexpected message type 1 from the server (INTERNAL)",
    ),
    "silent": Expected(
        "the peer does not answer",
        "StartTimeout",
        "register",
        f"{OVER} for an answer to RegisterPlugin; does an NRI runtime listen there, and is it alive?",
        AT_THE_DEADLINE,
    ),
    "refused": Expected(
        "the runtime refuses the registration",
        "StartError",
        "register",
        "the runtime refused the registration: invalid plugin name (UNKNOWN)",
    ),
    "closes_after_registration": Expected(
        "the runtime closes after the registration",
        "StartError",
        "configure",
        f"{CLOSED} {NO_CONFIGURE}",
    ),
    "silent_after_registration": Expected(
        "the runtime never configures the plugin",
        "StartTimeout",
        "configure",
        f"{OVER} to be configured; is the runtime busy with other plugins?",
        AT_THE_DEADLINE,
    ),
    "closes_while_configuring": Expected(
        "the runtime closes while `configure` runs",
        "StartError",
        "configure",
        f"{CLOSED} {NO_CONFIGURE}",
    ),
    "configure_hangs": Expected(
        "`configure` does not return",
        "StartTimeout",
        "configure",
        f"{OVER} for the plugin's own configure handler to return",
        AT_THE_DEADLINE,
    ),
    "configure_raises": Expected(
        "`configure` raises",
        "StartError",
        "configure",
        "configure failed: ValueError('no such policy')",
    ),
    "interceptor_raises": Expected(
        "an interceptor raises around `configure`",
        "StartError",
        "configure",
        "configure failed: PermissionError('not audited')",
    ),
    "outer_interceptor_raises": Expected(
        "an interceptor raises in front of one of gRPC",
        "StartError",
        "configure",
        "configure failed: PermissionError('not audited')",
    ),
    "grpc_interceptor_raises": Expected(
        "an interceptor of gRPC raises around `configure`",
        "StartError",
        "configure",
        "configure failed: PermissionError('not audited')",
    ),
    "grpc_interceptor_finds_none": Expected(
        "an interceptor of gRPC raises as it looks for the handler",
        "StartError",
        "configure",
        "configure failed: LookupError('no handler')",
    ),
    "interceptor_answers": Expected(
        "an interceptor answers Configure without `proceed`",
        "StartError",
        "configure",
        "configure failed: RuntimeError('an interceptor has kept Configure from the plugin')",
    ),
    "grpc_interceptor_has_none": Expected(
        "an interceptor of gRPC returns no handler for Configure",
        "StartError",
        "configure",
        "configure failed: RuntimeError('an interceptor has kept Configure from the plugin')",
    ),
    "wrong_mask": Expected(
        "`configure` returns events without a handler",
        "StartError",
        "configure",
        "configure failed: ValueError('configure subscribes to events that have no handler: "
        "CreateContainer (0x8)')",
    ),
    "lacking_mask": Expected(
        "`configure` returns an event by itself that the runtime does not have",
        "StartError",
        "configure",
        "configure failed: ValueError('containerd v1.7.28 (NRI v0.8.0) does not have these events, which "
        "the plugin requires: UpdatePodSandbox; it can do without those that it asks for by a group or by "
        "EventMask.optional()')",
    ),
    "stopped": Expected(
        "`stop()` is called meanwhile",
        "StubStopped",
        "",
        "stopped while it was starting (configure)",
    ),
}


class Scene:
    """A place to connect to, a stub that connects, and the clean-up."""

    def __init__(self, directory: Path, make_stub: MakeStub) -> None:
        self.path = str(directory / "nri.sock")
        self.options: dict[str, Any] = {"socket_path": self.path}
        self.plugin: Any = PluginWith(run_pod_sandbox=lambda pod: None)
        self.stack = contextlib.ExitStack()
        self.timeout: float | None = LONG
        self._make_stub = make_stub
        self._threads: list[threading.Thread] = []

    def make(self) -> nri_sync.Stub:
        return self._make_stub(self.plugin, **self.options)

    def listen(self, backlog: int = 5) -> socket.socket:
        return self.stack.enter_context(listen(self.path, backlog))

    def serve(self, behaviour: Callable[[RawRuntime], object], *, hold: bool = False) -> None:
        """Have the one connection that comes served; with ``hold`` it stays open after that."""
        listener = self.listen()

        def run() -> None:
            sock, _ = listener.accept()
            if hold:
                self.stack.callback(sock.close)
            with contextlib.nullcontext() if hold else sock:
                behaviour(RawRuntime(sock))

        self.run(run)

    def run(self, function: Callable[[], object]) -> None:
        thread = threading.Thread(target=function, name="runtime")
        self._threads.append(thread)
        thread.start()

    def close(self) -> None:
        for thread in self._threads:
            thread.join(LONG)
        self.stack.close()


def no_socket(scene: Scene) -> None:
    pass


def stale_socket(scene: Scene) -> None:
    listen(scene.path).close()


def file(scene: Scene) -> None:
    Path(scene.path).write_text("")


def datagrams(scene: Scene) -> None:
    sock = scene.stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    sock.bind(scene.path)


def no_descriptors(scene: Scene) -> None:
    scene.listen()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    scene.stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
    with open(os.devnull, "rb") as lowest:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest.fileno(), limits[1]))


def full_backlog(scene: Scene) -> None:
    scene.timeout = TIMEOUT
    scene.listen(backlog=0)
    scene.stack.enter_context(socket.socket(socket.AF_UNIX)).connect(scene.path)


def dialer(scene: Scene) -> None:
    def dial(path: str) -> socket.socket:
        raise KeyError("tunnel")

    scene.options["dialer"] = dial


def spent(scene: Scene) -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    scene.options = {"connection": ours}
    scene.timeout = None
    make = scene.make

    def make_used() -> nri_sync.Stub:
        stub = make()
        with pytest.raises(errors.StartError):
            stub.start()
        return stub

    scene.make = make_used  # type: ignore[method-assign]


def closes_at_once(scene: Scene) -> None:
    scene.serve(lambda runtime: None)


def http(scene: Scene) -> None:
    def answer(runtime: RawRuntime) -> None:
        runtime.sock.recv(4096)
        runtime.sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        runtime.sock.recv(4096)

    scene.serve(answer)


def echo(scene: Scene) -> None:
    def answer(runtime: RawRuntime) -> None:
        while data := runtime.sock.recv(4096):
            runtime.sock.sendall(data)

    scene.serve(answer)


def silent(scene: Scene) -> None:
    scene.serve(lambda runtime: None, hold=True)
    scene.timeout = TIMEOUT


def refused(scene: Scene) -> None:
    def answer(runtime: RawRuntime) -> None:
        _, message = runtime.next()
        status = envelope_pb2.Status(code=2, message="invalid plugin name")
        response = envelope_pb2.Response(status=status)
        runtime.send(2, 2, message.stream_id, response.SerializeToString())

    scene.serve(answer, hold=True)


def closes_after_registration(scene: Scene) -> None:
    scene.serve(lambda runtime: runtime.accept_registration())


def silent_after_registration(scene: Scene) -> None:
    scene.serve(lambda runtime: runtime.accept_registration(), hold=True)
    scene.timeout = TIMEOUT


def configuring(runtime: RawRuntime, **fields: str) -> None:
    runtime.accept_registration()
    runtime.call(1, "Configure", configuration(**fields))


def reading_the_answer(runtime: RawRuntime, **fields: str) -> None:
    configuring(runtime, **fields)
    runtime.response(1)
    assert runtime.at_end()


def closes_while_configuring(scene: Scene) -> None:
    entered, go_on = threading.Event(), threading.Event()
    scene.stack.callback(go_on.set)

    def configure(config: str, runtime: str, version: str) -> None:
        entered.set()
        go_on.wait(LONG)

    def serve(runtime: RawRuntime) -> None:
        configuring(runtime)
        entered.wait(LONG)

    scene.plugin = PluginWith(configure=configure)
    scene.serve(serve)


def configure_hangs(scene: Scene) -> None:
    go_on = threading.Event()
    scene.stack.callback(go_on.set)
    scene.plugin = PluginWith(configure=lambda config, runtime, version: go_on.wait(LONG) and None)
    scene.serve(configuring, hold=True)
    scene.timeout = TIMEOUT


class Audit(nri_sync.Interceptor):
    def serve(self, event: str, request: Any, context: Any, proceed: Any) -> Any:
        raise PermissionError("not audited")


class Answering(nri_sync.Interceptor):
    def serve(self, event: str, request: Any, context: Any, proceed: Any) -> Any:
        return api.ConfigureResponse()


class GrpcInterceptor(grpc.ServerInterceptor):
    """Raises in place of ``behaviour``, or passes all calls on."""

    def __init__(self, failure: Exception | None = None) -> None:
        self._failure = failure

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        found = continuation(details)
        if self._failure is None:
            return found
        if isinstance(self._failure, NotImplementedError):
            return None
        if isinstance(self._failure, LookupError):
            raise self._failure

        def behaviour(request: Any, context: Any) -> Any:
            assert self._failure is not None
            raise self._failure

        return grpc.unary_unary_rpc_method_handler(
            behaviour, found.request_deserializer, found.response_serializer
        )


def interceptor_raises(scene: Scene) -> None:
    scene.options["interceptors"] = [Audit()]
    scene.serve(reading_the_answer)


def outer_interceptor_raises(scene: Scene) -> None:
    scene.options["interceptors"] = [Audit(), GrpcInterceptor()]
    scene.serve(reading_the_answer)


def grpc_interceptor_raises(scene: Scene) -> None:
    scene.options["interceptors"] = [GrpcInterceptor(PermissionError("not audited"))]
    scene.serve(reading_the_answer)


def grpc_interceptor_finds_none(scene: Scene) -> None:
    scene.options["interceptors"] = [GrpcInterceptor(LookupError("no handler"))]
    scene.serve(reading_the_answer)


def interceptor_answers(scene: Scene) -> None:
    scene.options["interceptors"] = [Answering()]
    scene.serve(reading_the_answer)


def grpc_interceptor_has_none(scene: Scene) -> None:
    scene.options["interceptors"] = [GrpcInterceptor(NotImplementedError())]
    scene.serve(reading_the_answer)


def configure_raises(scene: Scene) -> None:
    def configure(config: str, runtime: str, version: str) -> None:
        raise ValueError("no such policy")

    scene.plugin = PluginWith(configure=configure)
    scene.serve(reading_the_answer)


def wrong_mask(scene: Scene) -> None:
    scene.plugin = PluginWith(
        configure=lambda config, runtime, version: EventMask.CREATE_CONTAINER,
        run_pod_sandbox=lambda pod: None,
    )
    scene.serve(reading_the_answer)


def lacking_mask(scene: Scene) -> None:
    scene.plugin = PluginWith(
        configure=lambda config, runtime, version: EventMask.UPDATE_POD_SANDBOX,
        update_pod_sandbox=lambda pod, overhead, resources: None,
    )
    old = {"runtime_name": "containerd", "runtime_version": "v1.7.28", "NRI_version": ""}
    scene.serve(lambda runtime: reading_the_answer(runtime, **old))


def stopped(scene: Scene) -> None:
    registered = threading.Event()
    make = scene.make

    def serve(runtime: RawRuntime) -> None:
        runtime.accept_registration()
        registered.set()

    def make_and_stop() -> nri_sync.Stub:
        stub = make()

        def stop() -> None:
            assert registered.wait(LONG)
            eventually(lambda: [conn.phase for conn in stub._live()] == ["configure"])
            stub.stop()

        scene.run(stop)
        return stub

    scene.serve(serve, hold=True)
    scene.make = make_and_stop  # type: ignore[method-assign]


@pytest.fixture
def scene(socket_dir: Path, make_stub: MakeStub) -> Iterator[Scene]:
    made = Scene(socket_dir, make_stub)
    yield made
    made.close()


def check(expected: Expected, error: Any, path: str) -> None:
    assert type(error).__name__ == expected.error
    assert getattr(error, "phase", "") == expected.phase
    text = str(error)
    # Which of the two errors it is depends on the faster thread.
    failed = (
        r"(writing to|reading from) the connection failed: \[Errno \d+\] [A-Z][a-z ]+(?= before)"
    )
    text = re.sub(failed, CLOSED, text)
    assert text == f"plugin 10-test: {expected.message.replace('PATH', path)}"


@pytest.mark.parametrize("name", [name for name in TABLE if name != "no_permission"])
def test_start_fails(scene: Scene, name: str) -> None:
    expected = TABLE[name]
    before = descriptors()
    globals()[name](scene)
    stub = scene.make()
    began = time.monotonic()
    with pytest.raises(errors.NRIError) as caught:
        stub.start(scene.timeout)
    took = time.monotonic() - began
    check(expected, caught.value, scene.path)
    if expected.when == AT_ONCE:
        assert took < LONG / 4
    else:
        assert scene.timeout is not None
        assert scene.timeout <= took < scene.timeout + LONG / 4
    assert stub.state is State.IDLE
    assert stub.close_reason is None
    assert stub.counters.sessions == 0
    if isinstance(caught.value, errors.StartTimeout):
        assert isinstance(caught.value, TimeoutError)
    scene.close()
    eventually(lambda: descriptors() <= before)


def test_start_fails_without_permission(socket_dir: Path) -> None:
    # As another user, unless the tests already run as one.
    path = socket_dir / "closed" / "nri.sock"
    path.parent.mkdir()
    with listen(str(path)):
        path.chmod(0o600)
        socket_dir.chmod(0o755)
        path.parent.chmod(0o755)
        script = textwrap.dedent(
            """
            import json, os, sys
            import nri_sync

            class Plugin:
                def run_pod_sandbox(self, pod):
                    pass

            stub = nri_sync.Stub(Plugin(), name="test", idx=10, socket_path=sys.argv[1])
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            else:
                os.chmod(sys.argv[1], 0)
            try:
                stub.start()
            except nri_sync.errors.StartError as error:
                print(json.dumps([type(error).__name__, error.phase, str(error)]))
            """
        )
        done = subprocess.run(
            [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    kind, phase, text = json.loads(done.stdout)
    error = getattr(errors, kind)(text, phase=phase)
    check(TABLE["no_permission"], error, str(path))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/tmp/" + "x" * 200, "AF_UNIX path too long"),
        ("", None),
    ],
)
def test_paths_that_cannot_be_used(path: str, text: str | None) -> None:
    if text is None:
        assert Source(None, None, path).path == nri_sync.api.DEFAULT_SOCKET_PATH
        return
    stub = nri_sync.Stub(PluginWith(shutdown=lambda: None), name="test", idx=10, socket_path=path)
    with pytest.raises(errors.StartError, match=text) as caught:
        stub.start()
    assert caught.value.phase == "dial"


def test_the_page_has_this_table() -> None:
    wanted = ["| when | exception | phase | after `plugin NAME: ` |", "|---|---|---|---|"]
    for row in TABLE.values():
        phase = f"`{row.phase}`" if row.phase else "-"
        late = " (at the deadline)" if row.when == AT_THE_DEADLINE else ""
        wanted.append(f"| {row.situation}{late} | {row.error} | {phase} | {row.message} |")
    assert "\n".join(wanted) in PAGE.read_text(), "\n".join(wanted)
