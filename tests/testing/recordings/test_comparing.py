"""The comparison of a plugin's answers with the recorded ones."""

from __future__ import annotations

import pytest

from nri_sync import api
from nri_sync.testing.recordings.comparing import compare
from nri_sync.testing.recordings.entries import PLUGIN, RESPONSE, Entry

__all__: list[str] = []


def answer(adjustment: api.ContainerAdjustment | None = None) -> Entry:
    message = api.nri_pb2.CreateContainerResponse(adjust=adjustment)
    return Entry(RESPONSE, 1, 1.5, PLUGIN, "CreateContainer", message=message)


def test_an_empty_message_is_equal_to_none() -> None:
    empty = api.ContainerAdjustment()
    empty.linux.resources.cpu.SetInParent()
    assert compare("", answer(), answer(empty)) == []


def test_an_optional_zero_is_a_value() -> None:
    zero = api.ContainerAdjustment()
    zero.linux.resources.cpu.shares.value = 0
    [difference] = compare("CreateContainer web", answer(), answer(zero))
    assert "shares" in difference.diff
    assert str(difference).startswith("CreateContainer web, 1.500 s into the recording:")


def test_the_order_of_map_entries_does_not_count() -> None:
    one = api.ContainerAdjustment(annotations={"a": "1", "b": "2"})
    other = api.ContainerAdjustment(annotations={"b": "2", "a": "1"})
    assert compare("", answer(one), answer(other)) == []


@pytest.mark.parametrize(("recorded", "now"), [(answer(), None), (None, answer())])
def test_a_missing_entry(recorded: Entry | None, now: Entry | None) -> None:
    [difference] = compare("", recorded, now)
    assert (difference.recorded == "nothing\n") == (recorded is None)
    assert compare("", None, None) == []


def test_errors() -> None:
    error = Entry(RESPONSE, 1, code=2, error="no\x1b")
    assert compare("", error, Entry(RESPONSE, 1, code=2, error="no\x1b")) == []
    [difference] = compare("", answer(), error)
    assert difference.now == "error 2: no\\x1b\n"
