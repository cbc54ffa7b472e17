"""Runs the mutants of one package in one session of pytest, for tools/mutate.py.

Pytest collects the tests of the package once. The first child process runs them all and records, for each test,
its duration and the functions that it calls. Then each mutant gets a child process, a fork, that exchanges the
code of the changed function and runs the tests that call this function, the nearest and quickest first, until one
fails.

Exchanged code has no effect on imports and on the processes that tests start. So a mutant that survives gets a
second try if an import calls its function or if no test does: a copy of the sources with the mutant, and a new
pytest.
"""

from __future__ import annotations

import contextlib
import faulthandler
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
TEST_LIMIT = 6.0
# The same for one pytest of the second try.
SECOND_LIMIT = 120.0

# Exit statuses of the child processes. faulthandler exits with 1.
_PASSED, _LATE, _FAILED, _NOT_EXCHANGED = 0, 1, 3, 4


def run(mutants: Sequence[Mutant], scratch: Path, write: Path | None) -> Counter[str]:
    """Count the outcomes of the mutants of one package, in this process: "failed", "late" or "survived".

    Prints each survivor, and appends it to the file ``write``. ``scratch`` is the directory for temporary files.
    """
    directory = Path(tempfile.mkdtemp(dir=scratch))
    output = os.fdopen(os.dup(1), "w", buffering=1)
    os.environ.update(TMPDIR=str(directory), CI="true", PYTHONPATH=str(ROOT))
    tempfile.tempdir = None
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    tests = list(dict.fromkeys(t for m in mutants for group in tests_of(m.module) for t in group))
    session = _Session(mutants, _SecondTry(directory), output, write)
    silence = io.StringIO()
    with contextlib.redirect_stdout(silence):
        pytest.main(["-qq", "-s", "-p", "no:cacheprovider", "--timeout=0", *tests], [session])
    if sum(session.outcomes.values()) != len(mutants):
        raise RuntimeError(f"pytest stopped before the mutants:\n{silence.getvalue()[-2000:]}")
    return session.outcomes


class _Session:
    """A plugin of pytest that runs mutants in place of the tests."""

    def __init__(
        self, mutants: Sequence[Mutant], second: _SecondTry, output: TextIO, write: Path | None
    ) -> None:
        self._mutants, self._second, self._output, self._write = mutants, second, output, write
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
        for mutant in self._mutants:
            status = tests.run(mutant)
            called = (str(mutant.module), mutant.functions[-1]) in called_by_imports
            if status == _NOT_EXCHANGED or (status == _PASSED and called):
                status = self._second.run(mutant)
            outcome = {_PASSED: "survived", _LATE: "late"}.get(status, "failed")
            self.outcomes[outcome] += 1
            if status == _PASSED:
                self._report(mutant)
        return True

    def _report(self, mutant: Mutant) -> None:
        print(f"survived: {mutant}", file=self._output)
        if self._write:
            with self._write.open("a") as file:
                print(mutant, file=file)


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
        self._seconds: dict[str, float] = {}
        recorded = self._record(session.items, _Calls())
        self._seconds = {nodeid: test.seconds for nodeid, test in recorded.items()}
        # A test that fails without a mutant, for its place in the sequence for example, proves nothing.
        again = self._record(self._quickest_first(session.items, []), None)
        self.failing = [key for key in recorded if not (recorded[key].passed and again[key].passed)]
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

            _in_child(run)
            file.seek(0)
            loaded: dict[str, _Test] = pickle.load(file)
            return loaded

    def run(self, mutant: Mutant) -> int:
        """Run the tests that call the changed function in a child process; returns its exit status."""
        items = self._callers.get((str(mutant.module), mutant.functions[-1]))
        if not items:
            return _NOT_EXCHANGED
        items = self._quickest_first(items, tests_of(mutant.module)[0])
        return _in_child(lambda: self._run_mutant(mutant, items))

    def _run_mutant(self, mutant: Mutant, items: list[pytest.Item]) -> int:
        if not exchange(mutant):
            return _NOT_EXCHANGED
        return _FAILED if any(failed for _, failed, _ in self._run(items)) else _PASSED

    def _run(
        self, items: list[pytest.Item], calls: _Calls | None = None
    ) -> Iterator[tuple[pytest.Item, bool, float]]:
        """Run the tests in this process; yields for each whether it failed, and the seconds that it took."""
        following: list[pytest.Item | None] = [*items[1:], None]
        for item, next_item in zip(items, following):
            limit = TEST_LIMIT + 10 * self._seconds.get(item.nodeid, TEST_LIMIT)
            faulthandler.dump_traceback_later(limit, exit=True)
            failed, start = self._session.testsfailed, time.monotonic()
            if calls:
                calls.start()
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=next_item)
            faulthandler.cancel_dump_traceback_later()
            yield item, self._session.testsfailed > failed, time.monotonic() - start


def _in_child(function: Callable[[], int]) -> int:
    """The exit status of a child process, a fork, that runs the function."""
    child = os.fork()
    if not child:
        status = _FAILED
        try:
            os.setsid()
            null = os.open(os.devnull, os.O_RDWR)
            for number in range(3):
                os.dup2(null, number)
            status = function()
        finally:
            os._exit(status)  # the threads of a mutant may never end
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # the processes that its tests have left
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else _FAILED


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
        self._directory = directory / "copy"

    def run(self, mutant: Mutant) -> int:
        """Run all tests of the package; returns an exit status as the child processes do."""
        if not self._directory.exists():
            self._copy()
        target = self._directory / mutant.module.relative_to(ROOT)
        target.write_text(mutant.source)
        try:
            for tests in tests_of(mutant.module):
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
