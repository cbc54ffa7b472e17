"""Recordings as files."""

from __future__ import annotations

import io
import json
import math
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from nri_sync import api
from nri_sync.kit.config.foreign import Bounds
from nri_sync.kit.logs.masking import Mask
from nri_sync.testing.recordings import files
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
    masked,
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


def test_written_and_read(tmp_path: Path) -> None:
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


def test_secrets_are_left_out_on_demand() -> None:
    container = api.Container(env=["TOKEN=t0p", "A=1"])
    message = api.nri_pb2.CreateContainerRequest(container=container)
    entry = Entry(REQUEST, 1, rpc="CreateContainer", message=message, payload=b"t0p")
    shown = masked(entry, Mask())
    assert (list(shown.message.container.env), shown.payload) == (["TOKEN=(masked)", "A=1"], None)
    assert entry.payload == b"t0p"
    assert "t0p" in str(message)
    assert masked(Entry(REQUEST, 1, rpc="Dance", payload=b"t0p"), Mask()).payload is None
    assert masked(entry, Mask(())) is entry


def test_an_end_that_is_cut_off_is_left_out(tmp_path: Path) -> None:
    path = written(tmp_path / "r", ENTRIES)
    path.write_bytes(path.read_bytes()[:-10])
    assert Recording.read(path).entries == ENTRIES[:-1]


HEAD = '{"nri_sync_recording":1}\n'


def line(**values: Any) -> str:
    entry = {"kind": "request", "connection": 1, "time": 0.0, "rpc": "RunPodSandbox", **values}
    return f"{json.dumps(entry)}\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "an empty recording"),
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
        (HEAD + "[" * 100_000 + "\n", "line 2: is nested too deeply"),
        (HEAD + '{"a":' * 100_000 + "\n", "line 2: is nested too deeply"),
        (HEAD + line(connection=0.5), "line 2"),
        (HEAD + line(stream="1" * 1_000_000), "line 2"),
        (HEAD + line(duration=[]), "line 2: a number of seconds is needed, not list"),
        (HEAD + line(time=math.inf), "line 2: Infinity is not a JSON number"),
        (HEAD + line(connection=math.nan), "line 2: NaN is not a JSON number"),
        (HEAD + line().replace("0.0", "1e999"), "line 2: 1e999 is too large"),
        (HEAD + line().replace("0.0", "1" + "0" * 390), "line 2: 1000"),
        (HEAD + line(time=-0.5), "line 2: -0.5 is not a number of seconds from 0 to 1,000,000,000"),
        (HEAD + line(timeout=1e300), "line 2: 1e+300 is not a number of seconds"),
        (HEAD + line(duration=1 << 63), "line 2: 9223372036854775808 is not a number of seconds"),
        (HEAD + "null\n", "line 2: not an object"),
        (HEAD + '"text"\n', "line 2: not an object"),
        (HEAD + line(message=None), "line 2"),
        (HEAD + line(message=[1]), "line 2"),
        (HEAD + line(message={"pod": {"labels": 5}}), "line 2"),
        (HEAD + line(message={"x" * 1_000_000: 1}), "line 2"),
        (HEAD + line(message={}, payload="//8="), "line 2: Error parsing message"),
        (HEAD + line(message={}, payload="CgMKAYA="), "line 2"),
        (HEAD + line(message={}, payload="?"), "line 2"),
        (HEAD + line(message={}, payload=5), "line 2"),
        (HEAD + '{"kind":1,"kind":2}\n', 'line 2: the key "kind" appears twice'),
    ],
)
def test_invalid_files(tmp_path: Path, text: str | bytes, problem: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RecordingError) as caught:
        Recording.read(path)
    assert problem in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 500


def test_a_line_without_end_is_not_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LINE", Bounds(bytes=1000, values=100))
    path = tmp_path / "r"
    for end in ("", "\n"):
        path.write_text(HEAD + '"' + "x" * 1000 + end + HEAD)
        with pytest.raises(RecordingError, match="line 2: has more than the 1,000 bytes"):
            Recording.read(path)


def test_a_new_file_is_for_this_user_only(tmp_path: Path) -> None:
    recording = Recording.read(written(tmp_path / "r", ENTRIES))
    recording.path = str(tmp_path / "new")
    before = os.umask(0)
    try:
        recording.write()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600


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
