"""The top level of the package has exactly the names that the reference documents."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import nri_sync

__all__: list[str] = []

REFERENCE = Path(__file__).resolve().parent.parent / "docs" / "reference.md"


def documented() -> set[str]:
    """The names in headings of the reference, such as ``### `nri_sync.Stub` ``."""
    text = REFERENCE.read_text()
    return set(re.findall(r"^#+ `nri_sync\.(\w+)[^`]*`", text, re.MULTILINE))


def test_all_that_is_exported_is_documented() -> None:
    assert set(nri_sync.__all__) - documented() == set()


def test_all_that_is_documented_is_exported() -> None:
    assert documented() - set(nri_sync.__all__) == set()


def test_all_that_is_exported_exists() -> None:
    missing = [name for name in nri_sync.__all__ if not hasattr(nri_sync, name)]
    assert missing == []


def test_the_stub_has_the_public_names_that_are_documented_and_no_others() -> None:
    """The reference includes all members of a class that have a docstring; there are no others."""
    entry = REFERENCE.read_text().split("## `nri_sync.Stub`")[1].split("##")[0]
    assert ":members:" in entry
    assert "exclude-members" not in entry
    plugin = SimpleNamespace(run_pod_sandbox=lambda pod: None)
    stub = nri_sync.Stub(plugin, name="example", idx="10")
    public = {name for name in dir(stub) if not name.startswith("_")}
    assert public == {name for name in vars(nri_sync.Stub) if not name.startswith("_")}
    assert [name for name in sorted(public) if not getattr(nri_sync.Stub, name).__doc__] == []
    # Each further name has to be kept in later releases.
    assert sorted(public) == [
        "base_name", "close", "close_reason", "counters", "events", "handover", "idx", "interceptors",
        "is_closed", "late_by_event", "missing_events", "name", "plugin_nri_version", "registration_timeout",
        "request_timeout", "run", "runtime_name", "runtime_nri_version", "runtime_version", "start", "started",
        "state", "stop", "timer_delay", "update_containers", "wait",
        "wait_synchronized",
    ]  # fmt: skip


def test_exports_are_listed_once() -> None:
    assert len(nri_sync.__all__) == len(set(nri_sync.__all__))


def test_a_part_does_not_load_the_rest() -> None:
    code = (
        "import sys, nri_sync, nri_sync.wire.mux, nri_sync.wire.streams;"
        "print({'grpc', 'google.protobuf', 'nri_sync.api'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "set()"


def test_a_stub_does_not_load_rarely_used_modules() -> None:
    """The modules of nri_sync itself. The modules of grpcio and protobuf do not count. Each takes up to 4 MB."""
    code = """
import builtins, sys
original, found = builtins.__import__, set()
def recording(name, scope=None, *rest, **options):
    new = name not in sys.modules
    if new and (scope or {}).get("__name__", "").startswith("nri_sync"):
        found.add(name)
    return original(name, scope, *rest, **options)
import types, typing, logging, nri_sync
builtins.__import__ = recording
class Plugin(nri_sync.Plugin):
    def create_container(self, pod, container): ...
nri_sync.Stub(Plugin(), name="x", idx="10")
print(sorted(found & {"ctypes", "dataclasses", "difflib", "hashlib", "inspect", "random", "secrets", "tempfile"}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "[]"


def test_other_names_are_not_attributes() -> None:
    assert set(nri_sync.__all__) <= set(dir(nri_sync))
    with pytest.raises(AttributeError, match="no attribute 'Stubb'"):
        _ = nri_sync.Stubb  # type: ignore[attr-defined]
