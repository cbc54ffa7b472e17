"""Fuzz target: each file format: configuration, manifest, config.json, output of crictl, recording, OCI hook.

The first byte selects the format. The result is a value, or an error of the format's kind with a short text.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Callable

from examples.hook_injector.plugin import read_hook
from nri_sync import kit
from nri_sync.errors import ConfigError
from nri_sync.testing import manifests
from nri_sync.testing.recordings import Recording, RecordingError
from tests.fuzz.fuzz_texts import ERROR_MAX

__all__ = ["FORMATS", "one_input"]


def _configuration(format: str) -> Callable[[Path], Any]:
    return lambda path: kit.load(dict, path, format=format)


def _recording(path: Path) -> None:
    recording = Recording.read(path)
    recording.write()
    assert Recording.read(path).entries == recording.entries


#: Selected by the first byte of an input, modulo their number.
FORMATS: tuple[Callable[[Path], Any], ...] = (
    lambda path: manifests.load(str(path)), _recording, read_hook, _configuration("json"), _configuration("yaml"),
    _configuration("toml"),
)  # fmt: skip


def one_input(data: bytes) -> None:
    if not data:
        return
    with tempfile.NamedTemporaryFile(suffix=".yaml") as file:
        file.write(data[1:])
        file.flush()
        try:
            FORMATS[data[0] % len(FORMATS)](Path(file.name))
        except (manifests.ManifestError, RecordingError, ConfigError) as error:
            assert len(str(error)) <= ERROR_MAX  # noqa: PT017
