"""Signals during work, in separate processes, because each process has one main thread."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from nri_sync.errors import NoThread
from nri_sync.kit import Notifier, Supervisor
from tests.kit.programs import program
from tests.plugin.harness import eventually
from tests.runtime.rig import LONG
from tests.threadless import no_threads

__all__: list[str] = []

SOURCE = """
import signal, subprocess, sys, threading, time
from nri_sync.kit import Notifier, Supervisor

def say(*words):
    # In one piece: several threads print.
    print(" ".join(map(str, words)) + "\\n", end="", flush=True)

ended = threading.Event()
supervisor = Supervisor(
    stop=lambda: (say("stop"), ended.set()), reload=lambda: say("reload"),
    alive=lambda: True, notifier=Notifier({}),
)

def work():
    say("working")
    assert ended.wait(60)
    say("done", supervisor.stopping)
"""


def test_reload_and_stop(socket_dir: Path) -> None:
    main = "supervisor.run(work)\nsay(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)"
    with program(socket_dir, source=SOURCE, main=main) as process:
        process.expect("working")
        for _ in range(3):
            process.signal(signal.SIGHUP)
            process.expect("reload")
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
        assert process.lines[-3:] == ["stop", "done True", "True"]


def test_without_a_thread_to_stop_on(socket_dir: Path) -> None:
    source = "from tests.threadless import no_threads\n" + SOURCE.replace(
        'say("working")', 'threadless = no_threads(); threadless.__enter__(); say("working")'
    )
    with program(socket_dir, source=source, main="supervisor.run(work)") as process:
        process.expect("working")
        process.signal(signal.SIGHUP)
        process.expect("reload")
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
        assert process.lines[-2:] == ["stop", "done True"]


def test_without_a_thread_to_work_on() -> None:
    supervisor = Supervisor(
        stop=lambda: None, reload=lambda: None, alive=lambda: True, notifier=Notifier({})
    )
    before = signal.getsignal(signal.SIGTERM)
    with no_threads(), pytest.raises(NoThread, match="nri-program"):
        supervisor.run(lambda: None)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal(number: signal.Signals, socket_dir: Path) -> None:
    source = SOURCE.replace("ended.set()", "time.sleep(60)")
    with program(socket_dir, source=source, main="supervisor.run(work)") as process:
        process.expect("working")
        process.signal(number)
        process.expect("stop")
        process.signal(number)
        assert process.wait() == -number


def test_child_processes_get_their_signals(socket_dir: Path) -> None:
    source = (
        SOURCE
        + """
def work():
    child = subprocess.Popen([sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"])
    assert ended.wait(60)
    child.terminate()
    say("child", child.wait())
"""
    )
    with program(socket_dir, source=source, main="supervisor.run(work)") as process:
        process.expect("up")
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
        assert "child -15" in process.lines


def test_forked_children_get_their_signals_and_keep_them(socket_dir: Path) -> None:
    source = (
        SOURCE
        + """
import os

def work():
    pid = os.fork()
    if not pid:
        say("up", os.getpid())
        time.sleep(60)
        os._exit(0)
    say("child", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), supervisor.stopping)
    assert ended.wait(60)
"""
    )
    with program(
        socket_dir, source=source, main="supervisor.run(work)", environ={"PYTHONWARNINGS": "ignore"}
    ) as process:
        child = int(process.expect("up").split()[1])
        os.kill(child, signal.SIGTERM)
        process.expect("child -15 False")
        process.signal(signal.SIGTERM)
        assert process.wait() == 0


def test_work_that_fails(socket_dir: Path) -> None:
    source = SOURCE + "\ndef work():\n    sys.exit(7)\n"
    with program(socket_dir, source=source, main="supervisor.run(work)") as process:
        assert process.wait() == 7


def test_elsewhere_than_on_the_main_thread() -> None:
    supervisor = Supervisor(
        stop=lambda: None, reload=lambda: None, alive=lambda: True, notifier=Notifier({})
    )
    before = signal.getsignal(signal.SIGTERM)
    done = threading.Event()
    outcome: list[BaseException] = []

    def run() -> None:
        try:
            supervisor.run(lambda: 1 / 0)
        except ZeroDivisionError as error:
            outcome.append(error)
        done.set()

    threading.Thread(target=run).start()
    assert done.wait(LONG)
    assert len(outcome) == 1
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_watchdog_is_fed_while_there_is_life() -> None:
    beats: list[float] = []
    alive = True

    class Fake(Notifier):
        watchdog_interval = 0.01

        def alive(self) -> None:
            beats.append(1)

    enough = threading.Event()

    def work() -> None:
        nonlocal alive
        eventually(lambda: len(beats) > 3)
        alive = False
        before = len(beats)
        # A report may have been requested just before.
        assert not enough.wait(0.2)
        assert len(beats) <= before + 1

    Supervisor(stop=lambda: None, reload=lambda: None, alive=lambda: alive, notifier=Fake({})).run(
        work
    )
