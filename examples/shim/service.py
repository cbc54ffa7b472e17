"""containerd's task service, for one container."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any, Callable

import grpc
from google.protobuf.empty_pb2 import Empty

from examples.shim import events_pb2, metrics_pb2, task_pb2, task_pb2_grpc
from examples.shim.bundle import Bundle, session
from examples.shim.process import Exit, Process, Stdio
from examples.shim.publisher import Publisher

__all__ = ["TaskService"]

INVALID = grpc.StatusCode.INVALID_ARGUMENT
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


class Task:
    """A container with its process."""

    def __init__(self, request: task_pb2.CreateTaskRequest, publisher: Publisher) -> None:
        self.request = request
        self.bundle = Bundle(Path(request.bundle))
        self._publisher = publisher
        program = self.bundle.program()
        stdio = Stdio(request.stdin, request.stdout, request.stderr)
        try:
            self.bundle.mount(request.rootfs)
            self.process = Process(
                program,
                stdio,
                on_create=self._announce_create,
                on_start=self._announce_start,
                on_exit=self._announce_exit,
            )
        except BaseException:
            stdio.close_files()
            stdio.close_stdin()
            self.bundle.unmount()
            raise
        self.bundle.record_process(self.process.pid)

    def _announce_create(self, pid: int) -> None:
        asked = self.request
        io = events_pb2.TaskIO(stdin=asked.stdin, stdout=asked.stdout, stderr=asked.stderr)
        event = events_pb2.TaskCreate(
            container_id=asked.id, bundle=asked.bundle, rootfs=asked.rootfs, io=io, pid=pid
        )
        self._publisher.publish("/tasks/create", event)

    def _announce_start(self, pid: int) -> None:
        event = events_pb2.TaskStart(container_id=self.request.id, pid=pid)
        self._publisher.publish("/tasks/start", event)

    def _announce_exit(self, pid: int, exit: Exit) -> None:
        event = events_pb2.TaskExit(
            container_id=self.request.id, id=self.request.id, pid=pid,
            exit_status=exit.status, exited_at=exit.at,
        )  # fmt: skip
        self._publisher.publish("/tasks/exit", event)


class TaskService(task_pb2_grpc.TaskServicer):
    """Serves calls on the threads of a connection, which ``Wait`` may block. Other methods are UNIMPLEMENTED."""

    def __init__(self, publisher: Publisher, shut_down: Callable[[], None]) -> None:
        self._publisher = publisher
        self._shut_down = shut_down
        # By its id. containerd starts one shim for each container, and creates its task once.
        self._tasks: dict[str, Task] = {}

    def _task(self, request: Any, context: grpc.ServicerContext) -> Task:
        """The task that a request names; the call ends here when there is no such task, or process of it."""
        task = self._tasks.get(request.id)
        if task is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"task {request.id!r}: not found")
        process: str = getattr(request, "exec_id", "")
        if process:
            context.abort(
                grpc.StatusCode.NOT_FOUND, f"process {process!r} of task {request.id!r}: not found"
            )
        return task

    def Create(
        self, request: task_pb2.CreateTaskRequest, context: grpc.ServicerContext
    ) -> task_pb2.CreateTaskResponse:
        if request.id in self._tasks:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, f"task {request.id!r} is there")
        # Not UNIMPLEMENTED: containerd would try again with an older version of the service.
        if request.checkpoint:
            context.abort(INVALID, "this shim restores no checkpoints")
        if request.terminal:
            context.abort(INVALID, "this shim has no terminals: run the container without -t")
        try:
            task = Task(request, self._publisher)
        except ValueError as error:
            context.abort(INVALID, str(error))
        self._tasks[request.id] = task
        return task_pb2.CreateTaskResponse(pid=task.process.pid)

    def Start(
        self, request: task_pb2.StartRequest, context: grpc.ServicerContext
    ) -> task_pb2.StartResponse:
        task = self._task(request, context)
        try:
            task.process.start()
        except RuntimeError as error:
            context.abort(PRECONDITION, str(error))
        return task_pb2.StartResponse(pid=task.process.pid)

    def State(
        self, request: task_pb2.StateRequest, context: grpc.ServicerContext
    ) -> task_pb2.StateResponse:
        task = self._task(request, context)
        created, exit = task.request, task.process.exit
        return task_pb2.StateResponse(
            id=created.id, bundle=created.bundle, pid=task.process.pid, status=task.process.status,
            stdin=created.stdin, stdout=created.stdout, stderr=created.stderr,
            exit_status=exit.status if exit else 0, exited_at=exit.at if exit else None,
        )  # fmt: skip

    def Wait(
        self, request: task_pb2.WaitRequest, context: grpc.ServicerContext
    ) -> task_pb2.WaitResponse:
        exit = self._task(request, context).process.wait()
        return task_pb2.WaitResponse(exit_status=exit.status, exited_at=exit.at)

    def Kill(self, request: task_pb2.KillRequest, context: grpc.ServicerContext) -> Empty:
        process = self._task(request, context).process
        try:
            process.kill(request.signal, all=request.all)
        except ProcessLookupError as error:
            context.abort(grpc.StatusCode.NOT_FOUND, str(error))
        return Empty()

    def CloseIO(self, request: task_pb2.CloseIORequest, context: grpc.ServicerContext) -> Empty:
        task = self._task(request, context)
        if request.stdin:
            task.process.stdio.close_stdin()
        return Empty()

    def Delete(
        self, request: task_pb2.DeleteRequest, context: grpc.ServicerContext
    ) -> task_pb2.DeleteResponse:
        task = self._task(request, context)
        process = task.process
        if process.status == task_pb2.RUNNING:
            context.abort(PRECONDITION, f"task {request.id!r} is running: kill it first")
        if process.status == task_pb2.CREATED:
            with contextlib.suppress(ProcessLookupError):
                process.kill(signal.SIGKILL)
        exit = process.wait()
        task.bundle.unmount()
        if self._tasks.pop(request.id, None) is None:
            self._task(request, context)  # another call was first
        event = events_pb2.TaskDelete(
            container_id=request.id, pid=process.pid, exit_status=exit.status, exited_at=exit.at
        )
        self._publisher.publish("/tasks/delete", event)
        return task_pb2.DeleteResponse(pid=process.pid, exit_status=exit.status, exited_at=exit.at)

    def Pids(
        self, request: task_pb2.PidsRequest, context: grpc.ServicerContext
    ) -> task_pb2.PidsResponse:
        processes = session(self._task(request, context).process.pid)
        return task_pb2.PidsResponse(
            processes=[task_pb2.ProcessInfo(pid=stat.pid) for stat in processes]
        )

    def Stats(
        self, request: task_pb2.StatsRequest, context: grpc.ServicerContext
    ) -> task_pb2.StatsResponse:
        processes = session(self._task(request, context).process.pid)
        user = round(sum(stat.user for stat in processes) * 1e6)
        system = round(sum(stat.system for stat in processes) * 1e6)
        metrics = metrics_pb2.Metrics(
            pids=metrics_pb2.PidsStat(current=len(processes)),
            cpu=metrics_pb2.CPUStat(usage_usec=user + system, user_usec=user, system_usec=system),
            memory=metrics_pb2.MemoryStat(usage=sum(stat.memory for stat in processes)),
        )
        response = task_pb2.StatsResponse()
        response.stats.type_url = metrics.DESCRIPTOR.full_name
        response.stats.value = metrics.SerializeToString()
        return response

    def Connect(
        self, request: task_pb2.ConnectRequest, context: grpc.ServicerContext
    ) -> task_pb2.ConnectResponse:
        pid = self._task(request, context).process.pid
        return task_pb2.ConnectResponse(shim_pid=os.getpid(), task_pid=pid)

    def Shutdown(self, request: task_pb2.ShutdownRequest, context: grpc.ServicerContext) -> Empty:
        # With a task there is more to do, unless containerd insists.
        if request.now or not self._tasks:
            self._shut_down()
        return Empty()
