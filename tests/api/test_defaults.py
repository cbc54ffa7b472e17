from __future__ import annotations

from nri_sync.api import defaults

__all__: list[str] = []


def test_values() -> None:
    assert {name: getattr(defaults, name) for name in defaults.__all__} == {
        "DEFAULT_REGISTRATION_TIMEOUT": 5.0,
        "DEFAULT_REQUEST_TIMEOUT": 2.0,
        "DEFAULT_SOCKET_PATH": "/var/run/nri/nri.sock",
        "ENV_PLUGIN_IDX": "NRI_PLUGIN_IDX",
        "ENV_PLUGIN_NAME": "NRI_PLUGIN_NAME",
        "ENV_PLUGIN_SOCKET": "NRI_PLUGIN_SOCKET",
    }
