"""The state that a test and the thread of a script share."""

from __future__ import annotations

import threading
from typing import Callable

import pytest

from nri_sync import api
from nri_sync.testing.script_state import Closed, ScriptState
from tests.runtime.rig import LONG, SHORT, on_thread

__all__: list[str] = []


@pytest.fixture
def state() -> ScriptState:
    return ScriptState()


def test_a_mark_that_is_there(state: ScriptState) -> None:
    state.mark("here")
    state.wait("here", 0)


def test_a_mark_that_comes(state: ScriptState) -> None:
    waiting = on_thread(lambda: state.wait("here", LONG))
    state.mark("elsewhere")
    state.mark("here")
    waiting()


def test_a_mark_that_does_not_come(state: ScriptState) -> None:
    state.note("connection 1: register")
    text = (
        r"(?s)has not got there within 0\.05 s, without 'here'; so far:\n  connection 1: register"
    )
    with pytest.raises(AssertionError, match=text):
        state.wait("here", SHORT)


def test_the_end(state: ScriptState) -> None:
    with pytest.raises(
        AssertionError, match=r"within 0\.05 s, without its end; so far:\n  nothing"
    ):
        state.wait(None, SHORT)
    waiting = on_thread(lambda: state.wait(None, LONG))
    state.finish(None)
    waiting()
    state.check()
    with pytest.raises(AssertionError, match="the script has ended, without 'here'"):
        state.wait("here", LONG)


def test_a_failure(state: ScriptState) -> None:
    error = ValueError("wrong")
    state.mark("here")
    state.finish(error)
    calls: list[Callable[[], None]] = [
        state.check, lambda: state.wait("here", LONG), lambda: state.wait("there", LONG)
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(AssertionError, match="the script has failed: wrong") as raised:
            call()
        assert raised.value.__cause__ is error


def test_held_until_released(state: ScriptState) -> None:
    held = on_thread(lambda: state.hold("here"))
    state.wait("here", LONG)
    state.release("here")
    held()
    state.release("later")
    state.hold("later")


def test_the_end_of_the_test_ends_waiting_steps(state: ScriptState) -> None:
    held = on_thread(lambda: state.hold("here"))
    paused = on_thread(lambda: state.pause(10 * LONG))
    state.wait("here", LONG)
    state.close()
    assert state.closed
    for waiting in (held, paused):
        with pytest.raises(Closed):
            waiting()
    with pytest.raises(Closed):
        state.pause(0)


def test_a_pause_ends(state: ScriptState) -> None:
    state.pause(SHORT)


def test_records(state: ScriptState) -> None:
    registration = api.RegisterPluginRequest(plugin_name="test")
    update = api.UpdateContainersRequest()
    threads = [
        threading.Thread(target=state.note, args=("noted",)),
        threading.Thread(target=state.registered, args=(registration,)),
        threading.Thread(target=state.answered, args=("Configure", None)),
        threading.Thread(target=state.updated, args=(update,)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert state.log == ["noted"]
    assert state.registrations == [registration]
    assert state.answers == [("Configure", None)]
    assert state.updates == [update]
