"""The NRI protocol's messages, and helpers on them.

Messages are protobuf's: ``api.Container``, ``api.ContainerAdjustment`` and so on, with plain
attributes. The helpers add what protobuf has no words for.
"""

from __future__ import annotations

from . import nri_pb2
from .compat import knows, since, unknown_fields, valid_events
from .defaults import (
    DEFAULT_REGISTRATION_TIMEOUT,
    DEFAULT_REQUEST_TIMEOUT,
    DEFAULT_SOCKET_PATH,
    ENV_PLUGIN_IDX,
    ENV_PLUGIN_NAME,
    ENV_PLUGIN_SOCKET,
)
from .events import EventMask, pretty_name
from .identity import PluginId, check_index, check_name, full_name, parse_file_name
from .version import NRI_VERSION, Version, infer_nri_version, runtime_nri_version

__all__ = [
    "DEFAULT_REGISTRATION_TIMEOUT",
    "DEFAULT_REQUEST_TIMEOUT",
    "DEFAULT_SOCKET_PATH",
    "ENV_PLUGIN_IDX",
    "ENV_PLUGIN_NAME",
    "ENV_PLUGIN_SOCKET",
    "NRI_VERSION",
    "EventMask",
    "PluginId",
    "Version",
    "check_index",
    "check_name",
    "full_name",
    "infer_nri_version",
    "knows",
    "nri_pb2",
    "parse_file_name",
    "pretty_name",
    "runtime_nri_version",
    "since",
    "unknown_fields",
    "valid_events",
]
