"""Names and values of the protocol that are not part of its messages."""

from __future__ import annotations

__all__ = [
    "DEFAULT_REGISTRATION_TIMEOUT",
    "DEFAULT_REQUEST_TIMEOUT",
    "DEFAULT_SOCKET_PATH",
    "ENV_PLUGIN_IDX",
    "ENV_PLUGIN_NAME",
    "ENV_PLUGIN_SOCKET",
]

#: The path of the socket on which a runtime listens for plugins.
DEFAULT_SOCKET_PATH = "/var/run/nri/nri.sock"

#: The environment variables of a launched plugin: its name, its index, and the number of the
#: connected file descriptor.
ENV_PLUGIN_NAME = "NRI_PLUGIN_NAME"
ENV_PLUGIN_IDX = "NRI_PLUGIN_IDX"
ENV_PLUGIN_SOCKET = "NRI_PLUGIN_SOCKET"

#: Seconds for the registration of a plugin, and for its answer to a request. Since NRI v0.7.0 the
#: Configure request has the values of the runtime.
DEFAULT_REGISTRATION_TIMEOUT = 5.0
DEFAULT_REQUEST_TIMEOUT = 2.0
