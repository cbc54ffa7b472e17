"""``python -m examples.shim``: the commands that containerd gives a shim.

    start     start the shim of a container in the background, and print its address
    delete    clean up after a shim that is gone
    -info     print the name of this runtime

The working directory is the container's bundle. See containerd's docs/runtime-v2.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

from google.protobuf.message import DecodeError

from examples.shim.bootstrap_pb2 import BootstrapParams, BootstrapResult, RuntimeInfo
from examples.shim.bundle import Bundle

__all__ = ["main"]

VERSION = 3  # of the task service
DEFAULT_SOCKETS = "/run/containerd/s"
STARTED = b"ready\n"
KILLED = 137
FLUSH_TIMEOUT = 5.0
# Each waits in a call of Wait, also after its client has gone: ttRPC has no message for a cancellation.
WAITERS = 1000


def start(options: argparse.Namespace) -> None:
    """Start the shim, and print its address when it listens."""
    text = sys.stdin.buffer.read()
    params = parse_params(text, options.id)
    sockets = (params.socket_dir if params else "") or DEFAULT_SOCKETS
    os.makedirs(sockets, mode=0o700, exist_ok=True)
    key = f"{options.address}/{options.namespace}/{options.id}"
    name = hashlib.sha256(key.encode()).hexdigest()[:32]
    address = f"unix://{sockets}/{name}"
    Bundle(Path.cwd()).record_socket(f"{sockets}/{name}")
    events = params.containerd_ttrpc_address if params else os.environ.get("TTRPC_ADDRESS", "")
    command = [sys.executable, "-m", "examples.shim", "-namespace", options.namespace]
    command += ["-id", options.id, "-events", events, "-socket", address, "serve"]
    shim = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
    )
    assert shim.stdout is not None
    if shim.stdout.readline() != STARTED:
        # The shim's own error is on stderr, which containerd shows.
        sys.exit(f"the shim of {options.id} has not started: exit status {shim.wait()}")
    if params is not None:
        result = BootstrapResult(version=VERSION, address=address, protocol="ttrpc")
        sys.stdout.buffer.write(result.SerializeToString())
    else:
        print(json.dumps({"version": VERSION, "address": address, "protocol": "ttrpc"}))


def parse_params(text: bytes, id: str) -> BootstrapParams | None:
    """The parameters of containerd 2.3 and later. An older one sends the runtime's options, or nothing: None."""
    try:
        params = BootstrapParams.FromString(text)
    except DecodeError:
        return None
    return params if params.instance_id == id else None


def serve(options: argparse.Namespace) -> None:
    """Serve the task service, until containerd shuts it down."""
    # The other commands are quicker without.
    from examples.shim.publisher import Publisher
    from examples.shim.service import TaskService
    from examples.shim.task_pb2_grpc import add_TaskServicer_to_server
    from nri_sync import ttrpc

    done = threading.Event()
    publisher = Publisher(options.events, options.namespace)
    server = ttrpc.Server(max_threads_per_connection=WAITERS)
    add_TaskServicer_to_server(TaskService(publisher, done.set), server)
    server.add_insecure_port(options.socket)
    server.start()
    detach()
    done.wait()
    publisher.close(FLUSH_TIMEOUT)
    server.stop(grace=1).wait()


def detach() -> None:
    """Let ``start`` return, and log to containerd: the FIFO named ``log`` in the bundle."""
    try:
        # Opens without a reader, and never blocks on a full FIFO while containerd is away.
        log = os.open("log", os.O_RDWR | os.O_NONBLOCK)
    except FileNotFoundError:
        log = os.open(os.devnull, os.O_WRONLY)
    os.write(1, STARTED)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def delete(options: argparse.Namespace) -> None:
    """Clean up, and print a DeleteResponse."""
    from examples.shim.process import now
    from examples.shim.task_pb2 import DeleteResponse

    pid = Bundle(Path(options.bundle or os.getcwd())).clean_up()
    response = DeleteResponse(pid=pid, exit_status=KILLED, exited_at=now())
    sys.stdout.buffer.write(response.SerializeToString())


def info(options: argparse.Namespace) -> None:
    """Print a RuntimeInfo."""
    sys.stdout.buffer.write(RuntimeInfo(name="python").SerializeToString())


COMMANDS = {"start": start, "serve": serve, "delete": delete, "info": info}


def main(arguments: list[str]) -> None:
    """Run a command of containerd."""
    parser = argparse.ArgumentParser(prog="containerd-shim", allow_abbrev=False)
    for name in ("namespace", "address", "publish-binary", "id", "bundle", "socket", "events"):
        parser.add_argument(f"-{name}", default="")
    parser.add_argument("-debug", action="store_true")
    parser.add_argument("-v", action="version", version="nri_sync's example of a shim")
    parser.add_argument("-info", action="store_true")
    parser.add_argument("command", choices=COMMANDS, nargs="?")
    options = parser.parse_args(arguments)
    command = "info" if options.info else options.command
    if command is None:
        parser.error("a command is needed")
    level = logging.DEBUG if options.debug else logging.INFO
    logging.basicConfig(level=level, format=f"shim {options.id}: %(levelname)s %(message)s")
    COMMANDS[command](options)


if __name__ == "__main__":
    main(sys.argv[1:])
