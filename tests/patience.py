"""Time limits for tests: long ones, so that a busy machine fails no test."""

from __future__ import annotations

import pytest

from nri_sync import api
from nri_sync.runtime.settings import Settings

__all__ = ["say_request_timeout"]


def say_request_timeout(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Have all runtimes of this process send a request timeout of ``seconds`` to plugins, and apply their own.

    A stub gives a late answer a tenth of the timeout before its end. A busy machine may take longer to deliver
    that answer, and the runtime would disconnect the plugin.
    """
    configuration = Settings.configuration

    def shorter(settings: Settings, config: str = "") -> api.ConfigureRequest:
        request = configuration(settings, config)
        request.request_timeout = round(seconds * 1000)
        return request

    monkeypatch.setattr(Settings, "configuration", shorter)
