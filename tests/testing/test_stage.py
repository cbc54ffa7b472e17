"""What a test and the thread of a script share."""

from __future__ import annotations

import threading
from typing import Callable

import pytest

from nri_sync import api
from nri_sync.testing.stage import Closed, Stage
from tests.runtime.rig import LONG, SHORT, on_thread

__all__: list[str] = []


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_a_mark_that_is_there(stage: Stage) -> None:
    stage.mark("here")
    stage.wait("here", 0)


def test_a_mark_that_comes(stage: Stage) -> None:
    waiting = on_thread(lambda: stage.wait("here", LONG))
    stage.mark("elsewhere")
    stage.mark("here")
    waiting()


def test_a_mark_that_does_not_come(stage: Stage) -> None:
    stage.note("connection 1: register")
    text = (
        r"(?s)has not got there within 0\.05 s, without 'here'; so far:\n  connection 1: register"
    )
    with pytest.raises(AssertionError, match=text):
        stage.wait("here", SHORT)


def test_the_end(stage: Stage) -> None:
    with pytest.raises(
        AssertionError, match=r"within 0\.05 s, without its end; so far:\n  nothing"
    ):
        stage.wait(None, SHORT)
    waiting = on_thread(lambda: stage.wait(None, LONG))
    stage.finish(None)
    waiting()
    stage.check()
    with pytest.raises(AssertionError, match="the script has ended, without 'here'"):
        stage.wait("here", LONG)


def test_a_failure(stage: Stage) -> None:
    error = ValueError("wrong")
    stage.mark("here")
    stage.finish(error)
    calls: list[Callable[[], None]] = [
        stage.check, lambda: stage.wait("here", LONG), lambda: stage.wait("there", LONG)
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(AssertionError, match="the script has failed: wrong") as raised:
            call()
        assert raised.value.__cause__ is error


def test_held_until_released(stage: Stage) -> None:
    held = on_thread(lambda: stage.hold("here"))
    stage.wait("here", LONG)
    stage.release("here")
    held()
    stage.release("later")
    stage.hold("later")


def test_the_end_of_the_test_ends_what_waits(stage: Stage) -> None:
    held = on_thread(lambda: stage.hold("here"))
    paused = on_thread(lambda: stage.pause(10 * LONG))
    stage.wait("here", LONG)
    stage.close()
    assert stage.closed
    for waiting in (held, paused):
        with pytest.raises(Closed):
            waiting()
    with pytest.raises(Closed):
        stage.pause(0)


def test_a_pause_ends(stage: Stage) -> None:
    stage.pause(SHORT)


def test_what_is_put_down(stage: Stage) -> None:
    registration = api.RegisterPluginRequest(plugin_name="test")
    update = api.UpdateContainersRequest()
    threads = [
        threading.Thread(target=stage.note, args=("noted",)),
        threading.Thread(target=stage.registered, args=(registration,)),
        threading.Thread(target=stage.answered, args=("Configure", None)),
        threading.Thread(target=stage.updated, args=(update,)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert stage.log == ["noted"]
    assert stage.registrations == [registration]
    assert stage.answers == [("Configure", None)]
    assert stage.updates == [update]
