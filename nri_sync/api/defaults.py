"""Names and values that runtimes and plugins agree on without telling each other."""

from __future__ import annotations

__all__ = [
    "DEFAULT_REGISTRATION_TIMEOUT",
    "DEFAULT_REQUEST_TIMEOUT",
    "DEFAULT_SOCKET_PATH",
    "ENV_PLUGIN_IDX",
    "ENV_PLUGIN_NAME",
    "ENV_PLUGIN_SOCKET",
]

#: Where a runtime listens for plugins.
DEFAULT_SOCKET_PATH = "/var/run/nri/nri.sock"

#: What a runtime puts into the environment of a plugin that it launches: name, index, and the
#: number of the file descriptor that is connected already.
ENV_PLUGIN_NAME = "NRI_PLUGIN_NAME"
ENV_PLUGIN_IDX = "NRI_PLUGIN_IDX"
ENV_PLUGIN_SOCKET = "NRI_PLUGIN_SOCKET"

#: Seconds that a plugin has for its registration, and to answer a request. Since NRI v0.7.0 the
#: runtime tells its own values in the Configure request.
DEFAULT_REGISTRATION_TIMEOUT = 5.0
DEFAULT_REQUEST_TIMEOUT = 2.0
