"""The errors if a library of green threads has patched the standard library."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any, Callable

import pytest

import nri_sync
from nri_sync import ttrpc
from nri_sync.errors import Unsupported
from nri_sync.patched import check_unpatched
from nri_sync.runtime import Runtime
from tests.plugin.harness import PluginWith

__all__: list[str] = []

LIBRARIES = [
    ("gevent", "gevent.monkey", "is_module_patched"),
    ("eventlet", "eventlet.patcher", "is_monkey_patched"),
]


def patch(monkeypatch: pytest.MonkeyPatch, module: str, function: str, *names: str) -> None:
    fake: Any = types.ModuleType(module)
    setattr(fake, function, lambda name: name in names)
    monkeypatch.setitem(sys.modules, module, fake)


@pytest.mark.parametrize(("library", "module", "function"), LIBRARIES)
def test_patched_modules_are_named(
    library: str, module: str, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch(monkeypatch, module, function, "threading", "thread", "select")
    with pytest.raises(
        Unsupported, match=f"a stub needs .* {library} has patched thread.*, select: run"
    ):
        check_unpatched("a stub")


@pytest.mark.parametrize(("library", "module", "function"), LIBRARIES)
def test_patches_of_unused_modules_are_accepted(
    library: str, module: str, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch(monkeypatch, module, function, "ssl", "subprocess")
    check_unpatched("a stub")


def make_stub(path: Path) -> object:
    return nri_sync.Stub(PluginWith(run_pod_sandbox=lambda pod: None), name="a", idx="10")


def make_runtime(path: Path) -> object:
    return Runtime(
        "r",
        "1",
        synchronize=lambda sync: None,
        update_containers=lambda updates, evictions: [],
        socket_path=str(path / "s"),
    )


@pytest.mark.parametrize(
    "make",
    [make_stub, make_runtime, lambda path: ttrpc.Server(), lambda path: ttrpc.connect(f"{path}/s")],
    ids=["stub", "runtime", "server", "channel"],
)
def test_the_constructor_refuses_a_patched_module(
    make: Callable[[Path], object], socket_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch(monkeypatch, "gevent.monkey", "is_module_patched", "select")
    with pytest.raises(
        Unsupported, match="gevent has patched select: run the plugin in a separate process"
    ):
        make(socket_dir)
