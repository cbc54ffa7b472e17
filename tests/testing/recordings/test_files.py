"""Recordings as files."""

from __future__ import annotations

import io
import json
import os
import stat
from pathlib import Path

import pytest

from nri_sync import api
from nri_sync.testing.recordings.entries import (
    CLOSED,
    OPENED,
    PLUGIN,
    REQUEST,
    RESPONSE,
    RUNTIME,
    Entry,
)
from nri_sync.testing.recordings.files import (
    FORMAT,
    Recorder,
    Recording,
    RecordingError,
    from_json,
    to_json,
)

__all__: list[str] = []

POD = api.PodSandbox(id="p0", name="web", namespace="default", labels={"ü": "x"})
ENTRIES = [
    Entry(OPENED, 1, 0.5, note="pid 7"),
    Entry(
        REQUEST, 1, 1.25, RUNTIME, "RunPodSandbox", 3, 40,
        api.nri_pb2.RunPodSandboxRequest(pod=POD), timeout=2.0,
    ),
    Entry(
        RESPONSE, 1, 1.5, PLUGIN, "RunPodSandbox", 3, 12, code=2, error="no\nnever", duration=0.25
    ),
    Entry(REQUEST, 1, 1.75, RUNTIME, "Dance", 5, 3, payload=b"\x00\xff", note="what?"),
    Entry(CLOSED, 1, 2.0),
]  # fmt: skip


def written(path: Path, entries: list[Entry]) -> Path:
    with path.open("w", encoding="utf-8") as file:
        recorder = Recorder(file, socket="/s")
        for entry in entries:
            recorder.write(entry)
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    recording = Recording.read(written(tmp_path / "r", ENTRIES))
    assert recording.entries == ENTRIES
    assert (recording.about["nri_sync_recording"], recording.about["socket"]) == (FORMAT, "/s")


def test_each_line_is_written_at_once() -> None:
    class Flushed(io.StringIO):
        seen = ""

        def flush(self) -> None:
            self.seen = self.getvalue()

    file = Flushed()
    recorder = Recorder(file)
    for count, entry in enumerate(ENTRIES, 2):
        recorder.write(entry)
        assert file.seen.count("\n") == count


def test_fields_of_newer_releases_are_kept() -> None:
    payload = POD.SerializeToString() + b"\xf8\x3f\x01"
    message = api.nri_pb2.RunPodSandboxRequest()
    message.pod.ParseFromString(payload)
    entry = Entry(
        REQUEST, 1, 0.0, RUNTIME, "RunPodSandbox", 1,
        message=message, payload=message.SerializeToString(),
    )  # fmt: skip
    read = from_json(json.loads(json.dumps(to_json(entry))))
    assert read.message.SerializeToString() == entry.payload


def test_an_end_that_is_cut_off_is_left_out(tmp_path: Path) -> None:
    path = written(tmp_path / "r", ENTRIES)
    path.write_bytes(path.read_bytes()[:-10])
    assert Recording.read(path).entries == ENTRIES[:-1]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "nothing is there"),
        ("hello", "not a recording"),
        ("hello\n", "line 1"),
        ("{}\n", "line 1: not a recording"),
        ("[]\n", "line 1: not a recording"),
        ('{"nri_sync_recording":2}\n', "format 2"),
        ('{"nri_sync_recording":1}\n{"kind":"note","time":0}\n', "line 2: has no 'connection'"),
        ('{"nri_sync_recording":1}\n[]\n', "line 2"),
        (
            (
                '{"nri_sync_recording":1}\n'
                '{"kind":"request","connection":1,"time":0,"rpc":"Configure","message":{"x":1}}\n'
            ),
            "line 2",
        ),
        (
            (
                '{"nri_sync_recording":1}\n'
                '{"kind":"request","connection":1,"time":0,"rpc":"Dance","message":{}}\n'
            ),
            "no method",
        ),
        (b"\xff\n", "not a recording"),
    ],
)
def test_what_is_no_recording(tmp_path: Path, text: str | bytes, problem: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RecordingError) as caught:
        Recording.read(path)
    assert problem in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_written_back(tmp_path: Path) -> None:
    path = written(tmp_path / "r", ENTRIES)
    path.chmod(0o640)
    recording = Recording.read(path)
    del recording.entries[1:]
    recording.write()
    assert Recording.read(path).entries == ENTRIES[:1]
    assert Recording.read(path).about == recording.about
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["r"]
