"""Fixtures for the tests of the test kit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nri_sync.testing import FakeRuntime
from tests.runtime.conftest import _clean_environment, _no_descriptor_left_behind

__all__ = ["_clean_environment", "_no_descriptor_left_behind"]


@pytest.fixture
def runtime() -> Iterator[FakeRuntime]:
    """A runtime. Its end checks that no plugin is left."""
    with FakeRuntime() as runtime:
        yield runtime
