"""The record of a call, and its callbacks."""

from __future__ import annotations

import threading

from nri_sync.deadline import Deadline
from nri_sync.rpc.client_call import Callbacks, ClientCall
from tests.net.rig import LONG

__all__: list[str] = []


def test_a_new_call_is_not_done() -> None:
    call = ClientCall("/a/b", Deadline(None), None, None)
    assert not call.done.is_set()
    assert (call.status, call.payload, call.outcome, call.cause) == (None, None, None, None)


def test_callbacks_run_in_order_on_the_thread_of_the_job() -> None:
    seen: list[tuple[int, int]] = []
    here = threading.get_ident()
    both = [lambda: seen.append((1, threading.get_ident())), lambda: seen.append((2, here))]
    assert Callbacks("x", both).run() == ()
    assert seen == [(1, here), (2, here)]


def test_callbacks_that_find_no_worker_run_all_the_same() -> None:
    called = threading.Event()
    assert Callbacks("x", [called.set]).refuse() == ()
    assert called.wait(LONG)
