"""Runs the mutants of one package in one session of pytest, for tools/mutate.py.

Pytest collects the tests of the package once. The first child process runs them all and records, for each test,
its duration and the functions that it calls. Then each mutant gets a child process, a fork, that exchanges the
code of the changed function and runs the tests that call this function, the nearest and quickest first, until one
fails.

Exchanged code has no effect on imports and on the processes that tests start. So a mutant that survives gets a
second try: a copy of the sources with the mutant, and a new pytest with the module's own tests. It runs the tests
of the whole package if no test calls the function, or if an import does.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import gc
import io
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

import pytest

from tools.mutate import ROOT, Function, Mutant, tests_of

__all__ = ["exchange", "run"]

# Seconds that a test may take, beside ten times its duration without a mutant. A mutant that hangs ends then.
TEST_LIMIT = 10.0
# Seconds that a test may take without a mutant.
FIRST_LIMIT = 300.0
# Seconds for one pytest of the second try.
SECOND_LIMIT = 120.0

# Tests that spend their time in processes that they start.
_IGNORED = ("tests/ttrpc/test_ttrpc_differences.py",)

# Exit statuses of the child processes. faulthandler exits with 1.
_PASSED, _LATE, _FAILED, _NOT_EXCHANGED = 0, 1, 3, 4


def run(mutants: Sequence[Mutant], jobs: int, scratch: Path, write: Path | None) -> Counter[str]:
    """Count the outcomes of the mutants of one package, in this process: "failed", "late" or "survived".

    ``jobs`` mutants run at once. Prints each survivor, and appends it to the file ``write``. ``scratch`` is the
    directory for temporary files.
    """
    directory = Path(tempfile.mkdtemp(dir=scratch))
    output = os.fdopen(os.dup(1), "w", buffering=1)
    os.environ.update(TMPDIR=str(directory), CI="true", PYTHONPATH=str(ROOT))
    tempfile.tempdir = None
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    tests = list(dict.fromkeys(t for m in mutants for group in tests_of(m.module) for t in group))
    session = _Session(mutants, [directory / str(job) for job in range(jobs)], output, write)
    silence = io.StringIO()
    with contextlib.redirect_stdout(silence):
        ignored = [f"--ignore={path}" for path in _IGNORED]
        # The plugin faulthandler would cancel the time limit of a test that has failed, and its teardown may hang.
        options = ["-qq", "-s", "-p", "no:cacheprovider", "-p", "no:faulthandler", "--timeout=0"]
        pytest.main([*options, *ignored, *tests], [session])
    if sum(session.outcomes.values()) != len(mutants):
        raise RuntimeError(f"pytest stopped before the mutants:\n{silence.getvalue()[-2000:]}")
    return session.outcomes


class _Session:
    """A plugin of pytest that runs mutants in place of the tests."""

    def __init__(
        self, mutants: Sequence[Mutant], copies: list[Path], output: TextIO, write: Path | None
    ) -> None:
        self._mutants, self._output, self._write = mutants, output, write
        # The directories for copies of the sources that no child process uses.
        self._free = copies
        # The child processes, with the mutant and the directory of each.
        self._running: dict[int, tuple[Mutant, Path]] = {}
        self.outcomes: Counter[str] = Counter()
        self._imports = _Calls()
        self._imports.start()

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self) -> None:
        import hypothesis  # pytest is to rewrite its asserts first

        # To shrink an example takes longer than to find one.
        phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
        hypothesis.settings.register_profile("mutants", hypothesis.settings(), phases=phases)
        hypothesis.settings.load_profile("mutants")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        called_by_imports = self._imports.stop()
        tests = _Tests(session)
        for test in tests.failing:
            print(f"fails without a mutant, so it is left out: {test}", file=self._output)
        count = f"{len(session.items)} tests for {len(self._mutants)} mutants"
        print(f"{time.strftime('%H:%M:%S')} {count}", file=self._output)
        for mutant in self._mutants:
            if not self._free:
                self._count_one()
            copy = self._free.pop()
            by_import = (str(mutant.module), mutant.functions[-1]) in called_by_imports
            child = _start(functools.partial(_status, tests, mutant, copy, by_import))
            self._running[child] = mutant, copy
        while self._running:
            self._count_one()
        return True

    def _count_one(self) -> None:
        """Wait for the end of a child process, and count the outcome of its mutant."""
        child, status = _wait()
        mutant, copy = self._running.pop(child)
        self._free.append(copy)
        self.outcomes[{_PASSED: "survived", _LATE: "late"}.get(status, "failed")] += 1
        if status == _PASSED:
            print(f"survived: {mutant}", file=self._output)
            if self._write:
                with self._write.open("a") as file:
                    print(mutant, file=file)


def _status(tests: _Tests, mutant: Mutant, copy: Path, by_import: bool) -> int:
    """The exit status of a mutant; for its child process. ``by_import``: an import calls its function."""
    status = tests.run(mutant)
    if status not in (_PASSED, _NOT_EXCHANGED):
        return status
    groups = tests_of(mutant.module)
    if status == _PASSED and not by_import:
        groups = groups[:-1]
    return _SecondTry(copy).run(mutant, groups)


# A function, with the name of its file.
_Key = tuple[str, Function]


class _Calls:
    """Records the functions of nri_sync that this thread, and the threads that start meanwhile, call."""

    def __init__(self) -> None:
        self._codes: dict[int, types.CodeType] = {}

    def _note(self, frame: types.FrameType, event: str, arg: object) -> None:
        if event == "call":
            # By id: the hash of a code object reads all its constants.
            self._codes[id(frame.f_code)] = frame.f_code

    def start(self) -> None:
        self._codes = {}
        sys.setprofile(self._note)
        threading.setprofile(self._note)

    def stop(self) -> set[_Key]:
        sys.setprofile(None)
        threading.setprofile(None)
        inside = str(ROOT / "nri_sync") + os.sep
        return {
            (code.co_filename, Function(code.co_firstlineno, code.co_name))
            for code in list(self._codes.values())
            if code.co_filename.startswith(inside)
        }


class _Test(NamedTuple):
    """The record of a test without a mutant."""

    passed: bool
    seconds: float
    calls: set[_Key]


class _Tests:
    """The collected tests, with the duration and the calls of each."""

    def __init__(self, session: pytest.Session) -> None:
        self._session = session
        self._limits: dict[str, float] = {}
        recorded = self._record(session.items, _Calls())
        self._seconds = {nodeid: test.seconds for nodeid, test in recorded.items()}
        # A test that fails without a mutant, for its place in the sequence for example, proves nothing.
        again = self._record(self._quickest_first(session.items, []), None)
        self.failing = [key for key in recorded if not (recorded[key].passed and again[key].passed)]
        # The first test of a file also sets up the fixtures of the file.
        setup: dict[Path, float] = {}
        for item in session.items:
            setup[item.path] = max(setup.get(item.path, 0.0), self._seconds[item.nodeid])
        self._limits = {
            item.nodeid: TEST_LIMIT + 10 * self._seconds[item.nodeid] + 2 * setup[item.path]
            for item in session.items
        }
        self._callers: dict[_Key, list[pytest.Item]] = {}
        for item in session.items:
            if item.nodeid not in self.failing:
                for call in recorded[item.nodeid].calls:
                    self._callers.setdefault(call, []).append(item)

    def _quickest_first(self, items: list[pytest.Item], own: list[str]) -> list[pytest.Item]:
        """The items of the files ``own``, then the others, each part in the sequence of duration."""

        def key(item: pytest.Item) -> tuple[bool, float]:
            return item.nodeid.partition("::")[0] not in own, self._seconds[item.nodeid]

        return sorted(items, key=key)

    def _record(self, items: list[pytest.Item], calls: _Calls | None) -> dict[str, _Test]:
        """Run the tests in a child process, and record the calls of each if ``calls`` is given."""
        with tempfile.TemporaryFile() as file:

            def run() -> int:
                recorded = {}
                for item, failed, seconds in self._run(items, calls):
                    called = calls.stop() if calls else set()
                    recorded[item.nodeid] = _Test(not failed, seconds, called)
                pickle.dump(recorded, file)
                file.flush()
                return _PASSED

            _start(run)
            _wait()
            file.seek(0)
            loaded: dict[str, _Test] = pickle.load(file)
            return loaded

    def run(self, mutant: Mutant) -> int:
        """Run the tests that call the changed function, in this process; returns its exit status."""
        items = self._callers.get((str(mutant.module), mutant.functions[-1]))
        if not items or not exchange(mutant):
            return _NOT_EXCHANGED
        items = self._quickest_first(items, tests_of(mutant.module)[0])
        return _FAILED if any(failed for _, failed, _ in self._run(items)) else _PASSED

    def _run(
        self, items: list[pytest.Item], calls: _Calls | None = None
    ) -> Iterator[tuple[pytest.Item, bool, float]]:
        """Run the tests in this process; yields for each whether it failed, and the seconds that it took."""
        following: list[pytest.Item | None] = [*items[1:], None]
        for item, next_item in zip(items, following):
            faulthandler.dump_traceback_later(self._limits.get(item.nodeid, FIRST_LIMIT), exit=True)
            failed, start = self._session.testsfailed, time.monotonic()
            if calls:
                calls.start()
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=next_item)
            faulthandler.cancel_dump_traceback_later()
            yield item, self._session.testsfailed > failed, time.monotonic() - start


def _start(function: Callable[[], int]) -> int:
    """Start a child process, a fork, that exits with the result of the function."""
    if child := os.fork():
        return child
    status = _FAILED
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(null, number)
        status = function()
    finally:
        os._exit(status)  # the threads of a mutant may never end


def _wait() -> tuple[int, int]:
    """Wait for a child process; returns its id and its exit status."""
    child, status = os.waitpid(-1, 0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # the processes that its tests have left
    return child, os.WEXITSTATUS(status) if os.WIFEXITED(status) else _FAILED


def exchange(mutant: Mutant) -> bool:
    """Give the functions around the change the code of the mutant. False if none was found or one refuses."""
    path = str(mutant.module)
    new = {
        Function(code.co_firstlineno, code.co_name): code
        for code in _codes(compile(mutant.tree, path, "exec", dont_inherit=True))
    }
    found = False
    for thing in gc.get_objects():
        if isinstance(thing, types.FunctionType) and thing.__code__.co_filename == path:
            function = Function(thing.__code__.co_firstlineno, thing.__code__.co_name)
            if function in mutant.functions:
                try:
                    thing.__code__ = new[function]
                except ValueError:  # another number of variables of outer functions
                    return False
                found = True
    return found


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


class _SecondTry:
    """A copy of the sources, in which a new pytest runs for each mutant."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._times = 0

    def run(self, mutant: Mutant, groups: list[list[str]]) -> int:
        """Run the groups of tests one after another; returns an exit status as the child processes do."""
        if not self._directory.exists():
            self._copy()
        target = self._directory / mutant.module.relative_to(ROOT)
        target.write_text(mutant.source)
        # Python takes bytecode for current if the source has the same size and, in seconds, the same time.
        self._times += 1
        os.utime(target, (self._times, self._times))
        try:
            for tests in groups:
                if status := self._pytest(tests):
                    return status
            return _PASSED
        finally:
            shutil.copy2(mutant.module, target)

    def _copy(self) -> None:
        ignored = shutil.ignore_patterns("__pycache__")
        for name in ("nri_sync", "tests", "examples", "tools", "docs"):
            shutil.copytree(ROOT / name, self._directory / name, ignore=ignored)
        for pattern in ("*.cfg", "*.toml", "*.md", "tox.ini"):
            for path in ROOT.glob(pattern):
                shutil.copy2(path, self._directory)

    def _pytest(self, tests: list[str]) -> int:
        options = ["-qq", "-x", "--timeout=30", "-p", "no:cacheprovider"]
        command = [sys.executable, "-m", "pytest", *options, *tests]
        environ = {**os.environ, "PYTHONPATH": str(self._directory)}
        with subprocess.Popen(
            command, cwd=self._directory, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        ) as tested:  # fmt: skip
            try:
                return _FAILED if tested.wait(SECOND_LIMIT) else _PASSED
            except subprocess.TimeoutExpired:
                os.killpg(tested.pid, signal.SIGKILL)
                return _LATE
