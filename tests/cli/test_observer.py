"""The plugin of ``nri-sync events``, and the thread of its stub."""

from __future__ import annotations

import pytest

from nri_sync import api
from nri_sync.cli.observer import Observer
from tests.runtime.rig import interrupted_at, on_thread

__all__: list[str] = []

LONG = 20.0


@pytest.fixture
def observer() -> Observer:
    return Observer(api.EventMask.parse("all"), lambda pod: True)


@pytest.mark.parametrize("waits", [True, False])
def test_handlers_do_not_block_after_an_interrupt_of_the_waiting_thread(
    observer: Observer, waits: bool
) -> None:
    def take() -> None:
        observer.wait(0.001)
        list(observer.take())

    def note() -> None:
        observer.note("disconnected", "")

    number = 0
    if not waits:
        note()
    while interrupted_at(number, take, within=""):
        on_thread(note)()
        assert observer.wait(LONG)
        if waits:
            list(observer.take())
        number += 1
    assert number > 20
    on_thread(observer.close)()
    assert not observer.wait(LONG)


def test_dropped_observations_are_counted() -> None:
    observer = Observer(api.EventMask.parse("all"), lambda pod: True, queue_max=2)
    for number in range(5):
        observer.note("disconnected", str(number))
    assert [observation.note for observation in observer.take()] == ["0", "1"]
    observer.note("disconnected", "5")
    for _ in range(3):
        observer.note("disconnected", "6")
    observer.close()
    assert [observation.note for observation in observer] == [
        "3 events dropped: they came faster than they could be printed",
        "5",
        "3 events dropped: they came faster than they could be printed",
    ]
