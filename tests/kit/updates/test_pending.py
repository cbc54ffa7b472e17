"""The outcome of an update, and the wait for it."""

from __future__ import annotations

import pytest

from nri_sync.errors import UpdateFailed, WouldDeadlock
from nri_sync.kit.updates.pending import PendingUpdate
from tests.plugin.harness import LONG

__all__: list[str] = []


def test_applied() -> None:
    pending = PendingUpdate(lambda: False)
    assert not pending.cancel()
    pending.set_result(None)
    assert pending.result(LONG) is None  # type: ignore[func-returns-value]
    assert pending.exception() is None


def test_failed() -> None:
    pending = PendingUpdate(lambda: False)
    failure = UpdateFailed("no", container_id="c", reason="refused", update=None, eviction=None)
    pending.set_exception(failure)
    assert pending.exception(LONG) is failure
    with pytest.raises(UpdateFailed):
        pending.result()


def test_a_wait_on_the_thread_that_the_update_waits_for_is_refused() -> None:
    pending = PendingUpdate(lambda: True)
    for wait in (pending.result, pending.exception):
        with pytest.raises(WouldDeadlock):
            wait()
    pending.set_result(None)
    assert pending.exception() is None
