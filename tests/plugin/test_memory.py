"""Memory that goes back to the system after the state of a large node."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading

import pytest

from nri_sync.errors import NoThread
from nri_sync.plugin import memory
from nri_sync.threads import Latch
from tests.plugin.harness import LONG, eventually

__all__: list[str] = []

# Frees many small blocks of the C library, below one that stays: without a trim their pages are kept.
_PROGRAM = """
import ctypes
from nri_sync.plugin.memory import give_back

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = (ctypes.c_void_p,)

def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

blocks = [libc.malloc(4000) for _ in range(20_000)]
for block in blocks:
    ctypes.memset(block, 1, 4000)
last = libc.malloc(4000)
for block in blocks:
    libc.free(block)
before = resident()
print(give_back(), before - resident())
"""


def has_trim() -> bool:
    return hasattr(ctypes.CDLL(None), "malloc_trim")


@pytest.mark.skipif(not has_trim(), reason="the C library has no malloc_trim()")
def test_free_pages_go_back_to_the_system() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, check=True, text=True, timeout=LONG
    )
    trimmed, kilobytes = done.stdout.split()
    assert trimmed == "True"
    assert int(kilobytes) > 60_000  # of 80,000


@pytest.mark.parametrize("error", [OSError, AttributeError])
def test_where_the_c_library_cannot(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def load(name: None) -> None:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert not memory.give_back()


def test_after_the_answer_on_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []
    monkeypatch.setattr(
        memory, "give_back", lambda: threads.append(threading.current_thread().name)
    )
    monkeypatch.setattr(memory, "MOMENT", 0.0)
    answered = Latch()
    memory.give_back_after(answered, "10-test-memory")
    eventually(lambda: answered.waiters)
    assert threads == []
    answered.set()
    eventually(lambda: threads)
    assert threads == ["10-test-memory"]


def test_without_a_thread_the_memory_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def spawn(*_: object) -> None:
        raise NoThread("no thread")

    monkeypatch.setattr(memory, "spawn", spawn)
    memory.give_back_after(Latch(), "10-test-memory")
