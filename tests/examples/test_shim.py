"""The shim by itself: its service and its commands, called as containerd calls them. tests/e2e has containerd."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty

from examples.shim import bootstrap_pb2, events_pb2, metrics_pb2, task_pb2
from examples.shim.__main__ import parse_params
from examples.shim.bundle import Bundle, Stat, session
from examples.shim.publisher import Publisher
from examples.shim.service import TaskService
from examples.shim.task_pb2_grpc import TaskStub, add_TaskServicer_to_server
from nri_sync import ttrpc
from tests.kit._node import eventually

__all__: list[str] = []

TIMEOUT = 30.0
ROOT = Path(__file__).resolve().parents[2]
FOREVER = ["/bin/sh", "-c", "exec sleep 1000"]


def serve_events(address: str, taken: queue.Queue[events_pb2.Envelope]) -> ttrpc.Server:
    """containerd's side of the events."""

    def forward(request: events_pb2.ForwardRequest, context: grpc.ServicerContext) -> Empty:
        taken.put(request.envelope)
        return Empty()

    coding = (events_pb2.ForwardRequest.FromString, Empty.SerializeToString)
    handlers = {"Forward": grpc.unary_unary_rpc_method_handler(forward, *coding)}
    server = ttrpc.Server()
    server.add_registered_method_handlers("containerd.services.events.ttrpc.v1.Events", handlers)
    server.add_insecure_port(address)
    server.start()
    return server


@pytest.fixture
def address(socket_dir: Path) -> str:
    """That of containerd's ttRPC socket."""
    return f"unix://{socket_dir}/containerd"


@pytest.fixture
def events(address: str) -> Iterator[queue.Queue[events_pb2.Envelope]]:
    taken: queue.Queue[events_pb2.Envelope] = queue.Queue()
    server = serve_events(address, taken)
    yield taken
    server.stop(None).wait()


@pytest.fixture
def publisher(address: str) -> Iterator[Publisher]:
    publisher = Publisher(address, "default", pause=0.01)
    yield publisher
    publisher.close(TIMEOUT)


@pytest.fixture
def down() -> threading.Event:
    """Set when the shim has been shut down."""
    return threading.Event()


@pytest.fixture
def task(socket_dir: Path, publisher: Publisher, down: threading.Event) -> Iterator[TaskStub]:
    server = ttrpc.Server()
    service = TaskService(publisher, down.set)
    add_TaskServicer_to_server(service, server)
    server.add_insecure_port(f"unix://{socket_dir}/shim")
    server.start()
    with ttrpc.connect(f"unix://{socket_dir}/shim") as channel:
        stub = TaskStub(channel)
        yield stub
        try:
            stub.Kill(task_pb2.KillRequest(id="c1", signal=signal.SIGKILL, all=True))
        except grpc.RpcError:
            pass  # there is none, or it has ended
        else:
            stub.Wait(task_pb2.WaitRequest(id="c1"), timeout=TIMEOUT)
    server.stop(None).wait()


def make_bundle(path: Path, args: list[str], **process: Any) -> Path:
    path.mkdir()
    process = {
        "args": args,
        "env": ["PATH=/usr/bin:/bin", "GREETING=a=b"],
        "cwd": "/tmp",
        **process,
    }
    # The program sees the whole file system, which takes no privilege.
    process["user"] = {"uid": os.getuid(), "gid": os.getgid()}
    (path / "config.json").write_text(json.dumps({"process": process, "root": {"path": "/"}}))
    return path


@pytest.fixture
def create(task: TaskStub, tmp_path: Path) -> Any:
    def create(args: list[str], **fields: Any) -> task_pb2.CreateTaskResponse:
        bundle = make_bundle(tmp_path / "bundle", args)
        request = task_pb2.CreateTaskRequest(id="c1", bundle=str(bundle), **fields)
        return task.Create(request, timeout=TIMEOUT)

    return create


def start(task: TaskStub) -> task_pb2.StartResponse:
    return task.Start(task_pb2.StartRequest(id="c1"), timeout=TIMEOUT)


def wait(task: TaskStub) -> task_pb2.WaitResponse:
    return task.Wait(task_pb2.WaitRequest(id="c1"), timeout=TIMEOUT)


def kill(task: TaskStub, number: int = signal.SIGKILL, all: bool = False) -> None:
    task.Kill(task_pb2.KillRequest(id="c1", signal=number, all=all), timeout=TIMEOUT)


def delete(task: TaskStub) -> task_pb2.DeleteResponse:
    return task.Delete(task_pb2.DeleteRequest(id="c1"), timeout=TIMEOUT)


def state(task: TaskStub) -> task_pb2.StateResponse:
    return task.State(task_pb2.StateRequest(id="c1"), timeout=TIMEOUT)


def topics(events: queue.Queue[events_pb2.Envelope], number: int) -> list[str]:
    return [events.get(timeout=TIMEOUT).topic for _ in range(number)]


def refusal(call: Any, *arguments: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments)
    return caught.value.code(), caught.value.details() or ""


class TestTask:
    def test_a_life(
        self, task: TaskStub, create: Any, events: queue.Queue[events_pb2.Envelope],
        down: threading.Event,
    ) -> None:  # fmt: skip
        pid = create(FOREVER).pid
        assert (state(task).status, state(task).pid) == (task_pb2.CREATED, pid)
        # The kernel closes the descriptors of exec(), for which the shim waits, before it sets the command line.
        eventually(lambda: b"init.py" in Path(f"/proc/{pid}/cmdline").read_bytes())
        assert start(task).pid == pid
        assert state(task).status == task_pb2.RUNNING
        connected = task.Connect(task_pb2.ConnectRequest(id="c1"))
        assert (connected.shim_pid, connected.task_pid) == (os.getpid(), pid)
        task.Shutdown(task_pb2.ShutdownRequest(id="c1"))
        assert not down.is_set()
        kill(task, signal.SIGTERM)
        end = wait(task)
        assert end.exit_status == 128 + signal.SIGTERM
        assert (state(task).status, state(task).exit_status) == (task_pb2.STOPPED, end.exit_status)
        assert state(task).exited_at == end.exited_at
        deleted = delete(task)
        assert (deleted.pid, deleted.exit_status) == (pid, end.exit_status)
        assert refusal(state, task) == (grpc.StatusCode.NOT_FOUND, "task 'c1': not found")
        assert topics(events, 4) == [
            "/tasks/create",
            "/tasks/start",
            "/tasks/exit",
            "/tasks/delete",
        ]
        task.Shutdown(task_pb2.ShutdownRequest(id="c1"))
        assert down.wait(TIMEOUT)

    def test_events_have_the_form_that_containerd_reads(
        self, task: TaskStub, create: Any, events: queue.Queue[events_pb2.Envelope]
    ) -> None:
        pid = create(["/bin/sh", "-c", "exit 3"]).pid
        start(task)
        assert wait(task).exit_status == 3
        create_event, _, exit_event = (events.get(timeout=TIMEOUT) for _ in range(3))
        assert create_event.namespace == "default"
        assert create_event.timestamp.seconds > 0
        assert create_event.event.type_url == "containerd.events.TaskCreate"
        assert exit_event.event.type_url == "containerd.events.TaskExit"
        event = events_pb2.TaskExit.FromString(exit_event.event.value)
        assert (event.container_id, event.id, event.pid, event.exit_status) == ("c1", "c1", pid, 3)

    def test_the_program_runs_as_the_specification_says(
        self, task: TaskStub, create: Any, tmp_path: Path
    ) -> None:
        out, fifo = tmp_path / "out", make_fifo(tmp_path / "err")
        program = 'echo "$GREETING"; pwd; echo bad >&2'
        create(["sh", "-c", program], stdout=f"file://{out}", stderr=str(fifo))
        with open_fifo(fifo) as err:
            start(task)
            assert wait(task).exit_status == 0
            assert err.read() == "bad\n"
        assert out.read_text() == "a=b\n/tmp\n"

    def test_input_ends_after_the_client_closes_and_close_io_is_called(
        self, task: TaskStub, create: Any, tmp_path: Path
    ) -> None:
        fifo, out = make_fifo(tmp_path / "in"), tmp_path / "out"
        create(["cat"], stdin=str(fifo), stdout=f"file://{out}")
        start(task)
        with fifo.open("w") as client:
            client.write("hello")
        # A client may come back until it says that it will not.
        assert state(task).status == task_pb2.RUNNING
        task.CloseIO(task_pb2.CloseIORequest(id="c1", stdin=True))
        assert wait(task).exit_status == 0
        assert out.read_text() == "hello"

    def test_processes_that_the_program_leaves_running_end_with_it(
        self, task: TaskStub, create: Any, tmp_path: Path
    ) -> None:
        fifo = make_fifo(tmp_path / "out")
        create(["sh", "-c", "sleep 1000 & echo $!"], stdout=str(fifo))
        with open_fifo(fifo) as out:
            start(task)
            assert wait(task).exit_status == 0
            # The end of the output comes when no process has it any more.
            assert out.read().strip().isdigit()

    def test_pids_and_stats(self, task: TaskStub, create: Any, tmp_path: Path) -> None:
        fifo = make_fifo(tmp_path / "out")
        pid = create(["sh", "-c", "sleep 1000 & sleep 1000 & echo; wait"], stdout=str(fifo)).pid
        with open_fifo(fifo) as out:
            start(task)
            assert out.readline() == "\n"
        pids = [info.pid for info in task.Pids(task_pb2.PidsRequest(id="c1")).processes]
        assert len(pids) == 3
        assert pid in pids
        stats = task.Stats(task_pb2.StatsRequest(id="c1")).stats
        assert stats.type_url == "io.containerd.cgroups.v2.Metrics"
        metrics = metrics_pb2.Metrics.FromString(stats.value)
        assert metrics.pids.current == 3
        assert metrics.memory.usage > 0
        assert metrics.cpu.usage_usec == metrics.cpu.user_usec + metrics.cpu.system_usec
        kill(task, all=True)
        assert wait(task).exit_status == 137

    def test_a_program_that_is_not_there(
        self, task: TaskStub, create: Any, events: queue.Queue[events_pb2.Envelope]
    ) -> None:
        create(["/no-such"])
        reason = "cannot execute '/no-such': No such file or directory"
        assert refusal(start, task) == (grpc.StatusCode.FAILED_PRECONDITION, reason)
        # At once: the process has ended when the call fails.
        assert delete(task).exit_status == 127
        assert topics(events, 2) == ["/tasks/create", "/tasks/delete"]

    def test_a_task_that_is_never_started_is_deleted(
        self, task: TaskStub, create: Any, events: queue.Queue[events_pb2.Envelope]
    ) -> None:
        pid = create(FOREVER).pid
        assert delete(task).exit_status == 137
        assert not Path(f"/proc/{pid}").exists()
        assert topics(events, 2) == ["/tasks/create", "/tasks/delete"]

    def test_a_task_that_was_killed_before_its_start(self, task: TaskStub, create: Any) -> None:
        pid = create(FOREVER).pid
        kill(task)
        assert wait(task).exit_status == 137
        code, reason = refusal(start, task)
        assert (code, reason) == (
            grpc.StatusCode.FAILED_PRECONDITION, f"process {pid} was killed"
        )  # fmt: skip
        assert refusal(kill, task)[0] is grpc.StatusCode.NOT_FOUND

    def test_a_second_start(self, task: TaskStub, create: Any) -> None:
        pid = create(FOREVER).pid
        start(task)
        reason = f"process {pid} has been started before"
        assert refusal(start, task) == (grpc.StatusCode.FAILED_PRECONDITION, reason)

    def test_a_running_task_is_not_deleted(self, task: TaskStub, create: Any) -> None:
        create(FOREVER)
        start(task)
        assert refusal(delete, task)[1] == "task 'c1' is running: kill it first"
        assert state(task).status == task_pb2.RUNNING

    def test_a_second_task_of_the_name(self, task: TaskStub, create: Any) -> None:
        create(FOREVER)
        again = task_pb2.CreateTaskRequest(id="c1", bundle="/no-such")
        assert refusal(task.Create, again)[0] is grpc.StatusCode.ALREADY_EXISTS

    @pytest.mark.parametrize(
        ("fields", "reason"),
        [
            ({"terminal": True}, "no terminals"),
            ({"checkpoint": "/c"}, "no checkpoints"),
            ({"stdout": "binary:///log"}, "no binary:// logging"),
        ],
    )
    def test_a_missing_feature_is_refused_with_its_name(
        self, fields: dict[str, Any], reason: str, create: Any, task: TaskStub
    ) -> None:
        code, details = refusal(lambda: create(FOREVER, **fields))
        # With UNIMPLEMENTED containerd would try an older version of the service.
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert reason in details
        assert refusal(state, task)[0] is grpc.StatusCode.NOT_FOUND

    def test_an_output_that_is_not_there(self, create: Any) -> None:
        assert refusal(lambda: create(FOREVER, stdout="/no-such"))[0] is grpc.StatusCode.NOT_FOUND

    def test_a_second_process(self, task: TaskStub, create: Any) -> None:
        create(FOREVER)
        asked = task_pb2.StateRequest(id="c1", exec_id="e1")
        reason = "process 'e1' of task 'c1': not found"
        assert refusal(task.State, asked) == (grpc.StatusCode.NOT_FOUND, reason)

    def test_many_clients_wait_for_a_task(self, task: TaskStub, create: Any) -> None:
        create(FOREVER)
        waiting = [
            task.Wait.future(task_pb2.WaitRequest(id="c1"), timeout=TIMEOUT) for _ in range(9)
        ]
        start(task)
        kill(task)
        assert {future.result().exit_status for future in waiting} == {137}


def make_fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def open_fifo(path: Path) -> TextIO:
    """For reading; does not wait for a writer, which is there already: the shim."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(descriptor, True)
    return os.fdopen(descriptor)


class TestPublisher:
    def test_events_wait_for_containerd(self, address: str) -> None:
        taken: queue.Queue[events_pb2.Envelope] = queue.Queue()
        patient = Publisher(address, "default", pause=TIMEOUT)
        patient.publish("/tasks/start", events_pb2.TaskStart(container_id="c1"))
        server = serve_events(address, taken)
        # It may be in its pause, and closing ends that.
        patient.close(TIMEOUT)
        assert taken.get(timeout=TIMEOUT).topic == "/tasks/start"
        server.stop(None).wait()

    def test_a_connection_that_is_lost_is_made_again(
        self, address: str, publisher: Publisher
    ) -> None:
        taken: queue.Queue[events_pb2.Envelope] = queue.Queue()
        for topic in ("/tasks/create", "/tasks/start"):
            server = serve_events(address, taken)
            try:
                publisher.publish(topic, events_pb2.TaskStart(container_id="c1"))
                arrived = taken.get(timeout=TIMEOUT).topic
                if arrived != topic:
                    # The server stopped before its answer to the first one was out: that one comes again.
                    assert arrived == "/tasks/create"
                    arrived = taken.get(timeout=TIMEOUT).topic
                assert arrived == topic
            finally:
                server.stop(None).wait()

    def test_without_containerd_an_event_is_dropped_and_logged(
        self, address: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        publisher = Publisher(address, "default", pause=0)
        publisher.publish("/tasks/start", events_pb2.TaskStart())
        publisher.close(TIMEOUT)
        assert "event /tasks/start is dropped" in caplog.text


class TestBundle:
    @pytest.mark.parametrize(
        "spec",
        [
            {},
            {"process": None},
            {"process": {"args": ["x"]}},
            {"root": {"path": "/"}, "process": {}},
            [],
        ],
    )
    def test_a_specification_that_lacks_a_value(self, spec: Any, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps(spec))
        with pytest.raises(ValueError, match="is no specification"):
            Bundle(tmp_path).program()

    def test_the_root_may_be_relative(self, tmp_path: Path) -> None:
        bundle = make_bundle(tmp_path / "b", ["x"])
        spec = json.loads((bundle / "config.json").read_text())
        spec["root"]["path"] = "rootfs"
        (bundle / "config.json").write_text(json.dumps(spec))
        assert Bundle(bundle).program()["root"] == str(bundle.resolve() / "rootfs")

    def test_another_process_with_the_pid_lives_on(self, tmp_path: Path) -> None:
        with subprocess.Popen(["sleep", "1000"], start_new_session=True) as process:
            stat = Stat.of(process.pid)
            assert stat is not None
            record = {"pid": process.pid, "started": stat.started - 1}
            (tmp_path / "init.json").write_text(json.dumps(record))
            assert Bundle(tmp_path).clean_up() == process.pid
            assert process.poll() is None
            process.kill()

    def test_names_of_programs_with_parentheses(self, tmp_path: Path) -> None:
        program = tmp_path / "a) S (b"
        program.symlink_to("/bin/sleep")
        with subprocess.Popen([str(program), "1000"], start_new_session=True) as process:
            assert [stat.pid for stat in session(process.pid)] == [process.pid]
            process.kill()
        assert session(process.pid) == []
        assert Stat.of(process.pid) is None


def command(*arguments: str, cwd: Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "TTRPC_ADDRESS": str(cwd / "no-containerd")}
    shim = [sys.executable, "-m", "examples.shim", "-namespace", "default", "-id", "c1"]
    return subprocess.run(
        [*shim, "-publish-binary", "/bin/true", "-address", "/c", *arguments],
        cwd=cwd, input=stdin, capture_output=True, env=environ, check=False, timeout=4 * TIMEOUT,
    )  # fmt: skip


@pytest.mark.timeout(300)
class TestCommands:
    def params(self, socket_dir: Path) -> bytes:
        params = bootstrap_pb2.BootstrapParams(instance_id="c1", socket_dir=str(socket_dir))
        return params.SerializeToString()

    def test_start_kill_the_shim_and_delete(self, tmp_path: Path, socket_dir: Path) -> None:
        bundle = make_bundle(tmp_path / "bundle", FOREVER)
        done = command("start", cwd=bundle, stdin=self.params(socket_dir))
        assert done.returncode == 0, done.stderr
        result = bootstrap_pb2.BootstrapResult.FromString(done.stdout)
        assert (result.version, result.protocol) == (3, "ttrpc")
        with ttrpc.connect(result.address) as channel:
            task = TaskStub(channel)
            request = task_pb2.CreateTaskRequest(id="c1", bundle=str(bundle))
            pid = task.Create(request, timeout=TIMEOUT).pid
            start(task)
            shim = task.Connect(task_pb2.ConnectRequest(id="c1"), timeout=TIMEOUT).shim_pid
            lost = task.Wait.future(task_pb2.WaitRequest(id="c1"), timeout=TIMEOUT)
            os.kill(shim, signal.SIGKILL)
            with pytest.raises(grpc.RpcError):
                lost.result()
        assert Stat.of(pid) is not None
        done = command("-bundle", str(bundle), "delete", cwd=bundle)
        assert done.returncode == 0, done.stderr
        response = task_pb2.DeleteResponse.FromString(done.stdout)
        assert (response.pid, response.exit_status) == (pid, 137)
        assert session(pid) == []
        assert list(socket_dir.iterdir()) == []
        # containerd may repeat it.
        assert command("-bundle", str(bundle), "delete", cwd=bundle).returncode == 0

    def test_shutdown_ends_the_shim(self, tmp_path: Path, socket_dir: Path) -> None:
        bundle = make_bundle(tmp_path / "bundle", FOREVER)
        done = command("start", cwd=bundle, stdin=self.params(socket_dir))
        address = bootstrap_pb2.BootstrapResult.FromString(done.stdout).address
        ended = threading.Event()
        with ttrpc.connect(address, on_close=lambda cause: ended.set()) as channel:
            TaskStub(channel).Shutdown(task_pb2.ShutdownRequest(id="c1"), timeout=TIMEOUT)
            assert ended.wait(TIMEOUT)
        assert list(socket_dir.iterdir()) == []

    def test_a_shim_that_does_not_start(self, tmp_path: Path, socket_dir: Path) -> None:
        params = bootstrap_pb2.BootstrapParams(
            instance_id="c1", socket_dir=f"{socket_dir}/{'x' * 100}"
        )
        done = command("start", cwd=tmp_path, stdin=params.SerializeToString())
        assert done.returncode == 1
        assert b"cannot listen on" in done.stderr
        assert b"the shim of c1 has not started" in done.stderr

    def test_a_delete_without_a_task(self, tmp_path: Path) -> None:
        done = command("delete", cwd=tmp_path)
        assert task_pb2.DeleteResponse.FromString(done.stdout).pid == 0

    def test_info_and_version(self, tmp_path: Path) -> None:
        done = command("-info", cwd=tmp_path)
        assert bootstrap_pb2.RuntimeInfo.FromString(done.stdout).name == "python"
        assert command("-v", cwd=tmp_path).returncode == 0
        assert b"a command is needed" in command(cwd=tmp_path).stderr

    def test_parameters_of_older_releases_are_recognized(self) -> None:
        options = AnyMessage(type_url="containerd.runc.v1.Options", value=b"\x0a\x03abc")
        assert parse_params(options.SerializeToString(), "c1") is None
        assert parse_params(b"", "c1") is None
        assert parse_params(b"\xff", "c1") is None
        assert parse_params(self.params(Path("/s")), "c1") is not None
