"""The messages between a runtime and a plugin: observed by a proxy, recorded in a file, replayed to a plugin."""

from __future__ import annotations

from nri_sync.testing.recordings.entries import Entry
from nri_sync.testing.recordings.files import Recorder, Recording, RecordingError
from nri_sync.testing.recordings.proxy import Proxy
from nri_sync.testing.recordings.replaying import Difference, replay

__all__ = ["Difference", "Entry", "Proxy", "Recorder", "Recording", "RecordingError", "replay"]
