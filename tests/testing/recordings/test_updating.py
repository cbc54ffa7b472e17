"""New answers and requests in a recording."""

from __future__ import annotations

from nri_sync import api
from nri_sync.testing.recordings import Recording
from nri_sync.testing.recordings.entries import CLOSED, PLUGIN, REQUEST, RESPONSE, RUNTIME, Entry
from nri_sync.testing.recordings.updating import answer_to, update_recording

__all__: list[str] = []

RPC = "UpdateContainers"


def recording(updates: int) -> Recording:
    """A registration, an event, and requests for updates."""
    entries = [
        Entry(REQUEST, 1, sender=PLUGIN, rpc="RegisterPlugin", stream=1),
        Entry(REQUEST, 1, sender=RUNTIME, rpc="RunPodSandbox", stream=1),
        Entry(RESPONSE, 1, sender=PLUGIN, rpc="RunPodSandbox", stream=1),
    ]
    for number in range(updates):
        stream = 3 + 2 * number
        entries += [
            Entry(REQUEST, 1, sender=PLUGIN, rpc=RPC, stream=stream, message=request("old")),
            Entry(RESPONSE, 1, sender=RUNTIME, rpc=RPC, stream=stream),
        ]
    entries.append(Entry(CLOSED, 1))
    return Recording("web.jsonl", entries=entries)


def request(id: str) -> api.nri_pb2.UpdateContainersRequest:
    return api.nri_pb2.UpdateContainersRequest(update=[api.Update(id).message])


def ids(changed: Recording) -> list[str]:
    return [
        entry.message.update[0].container_id
        for entry in changed.entries
        if entry.rpc == RPC and entry.kind == REQUEST
    ]


def test_an_answer_is_replaced() -> None:
    changed = recording(0)
    new = Entry(RESPONSE, 1, sender=PLUGIN, rpc="RunPodSandbox", stream=1, code=2)
    update_recording(changed, list(changed.entries), {2: new}, [])
    assert changed.entries[2] is new
    assert len(changed.entries) == 4


def test_a_request_is_replaced_and_its_answer_stays() -> None:
    changed = recording(1)
    update_recording(changed, list(changed.entries), {}, [request("new")])
    assert ids(changed) == ["new"]
    assert len(changed.entries) == 6


def test_a_request_that_no_longer_comes_is_removed_with_its_answer() -> None:
    changed = recording(2)
    update_recording(changed, list(changed.entries), {}, [request("new")])
    assert ids(changed) == ["new"]
    assert [entry.stream for entry in changed.entries if entry.rpc == RPC] == [3, 3]


def test_a_new_request_comes_before_the_end_with_a_successful_answer() -> None:
    changed = recording(1)
    update_recording(changed, list(changed.entries), {}, [request("one"), request("two")])
    assert ids(changed) == ["one", "two"]
    *_, new, answer, closed = changed.entries
    assert (new.stream, closed.kind) == (5, CLOSED)
    assert answer_to(changed.entries, new) is answer
