"""Fixtures for the tests of the commands."""

from __future__ import annotations

import pytest

from nri_sync import api
from nri_sync.testing.common import WITHIN

__all__: list[str] = []


@pytest.fixture(autouse=True)
def _patient_runtimes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give plugins more time than the real runtimes do: the machine may be busy."""
    monkeypatch.setattr(api, "DEFAULT_REQUEST_TIMEOUT", WITHIN)
    monkeypatch.setattr(api, "DEFAULT_REGISTRATION_TIMEOUT", WITHIN)
