"""Writes the new answers and requests of a plugin into a recording."""

from __future__ import annotations

from collections.abc import Mapping

from nri_sync.api import nri_pb2
from nri_sync.testing.recordings.entries import (
    CLOSED,
    PLUGIN,
    REQUEST,
    RESPONSE,
    RUNTIME,
    Entry,
)
from nri_sync.testing.recordings.files import Recording

__all__ = ["answer_to", "update_recording"]


def answer_to(entries: list[Entry], request: Entry) -> Entry | None:
    """The answer to a request of either side; None if there is none."""
    for entry in entries:
        if (
            entry.kind == RESPONSE
            and entry.sender != request.sender
            and entry.stream == request.stream
        ):
            return entry
    return None


def update_recording(
    recording: Recording,
    entries: list[Entry],
    answers: Mapping[int, Entry],
    updates: list[nri_pb2.UpdateContainersRequest],
) -> None:
    """Replace the recorded answers and requests of a plugin by new ones.

    Args:
        entries: the entries of the plugin's connection.
        answers: the new answers, by their index in ``entries``.
        updates: all new requests of the plugin, in order.
    """
    replaced: dict[int, Entry | None] = {id(entries[place]): now for place, now in answers.items()}
    requests = [e for e in entries if e.rpc == "UpdateContainers" and e.kind == REQUEST]
    for number, entry in enumerate(requests):
        if number < len(updates):
            entry.message, entry.payload = updates[number], None
            entry.size = entry.message.ByteSize()
        else:
            replaced[id(entry)] = None
            answer = answer_to(entries, entry)
            if answer is not None:
                replaced[id(answer)] = None
    added = _new_updates(entries, updates[len(requests) :])
    found: list[Entry] = []
    for entry in recording.entries:
        if entry is entries[-1] and entry.kind == CLOSED:
            found += added
            added = []
        kept = replaced.get(id(entry), entry)
        if kept is not None:
            found.append(kept)
    recording.entries[:] = found + added


def _new_updates(
    entries: list[Entry], updates: list[nri_pb2.UpdateContainersRequest]
) -> list[Entry]:
    found = []
    stream = max(e.stream for e in entries if e.sender == PLUGIN and e.kind == REQUEST)
    connection, at, rpc = entries[-1].connection, entries[-1].time, "UpdateContainers"
    for update in updates:
        stream += 2
        found.append(Entry(REQUEST, connection, at, PLUGIN, rpc, stream, update.ByteSize(), update))
        answer = nri_pb2.UpdateContainersResponse()
        found.append(Entry(RESPONSE, connection, at, RUNTIME, rpc, stream, 0, answer, duration=0.0))
    return found
