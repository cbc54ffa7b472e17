"""Recognizing objects of grpcio, in processes that load it early, late, or never."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import grpc
import pytest

from nri_sync.rpc.grpcio import grpc_classes

__all__: list[str] = []

_MAKE = """
import sys
from nri_sync.rpc.context import RequestContext
context = RequestContext("/a/b", (), 0.0, None, "unix:x", lambda: True)
"""
_CHECK = """
assert isinstance(context, grpc.ServicerContext) and isinstance(context, grpc.RpcContext)
assert isinstance(context, RequestContext) and type(context) is context.__class__ is RequestContext
assert not isinstance(context, (grpc.Server, grpc.Call, str))
"""


def run(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_classes() -> None:
    assert grpc_classes("RpcError", "StatusCode") == (grpc.RpcError, grpc.StatusCode)


def test_none_without_grpcio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "grpc")
    assert grpc_classes("RpcError") == ()


def test_none_while_another_thread_loads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc", ModuleType("grpc"))
    assert grpc_classes("RpcError") == ()


def test_a_context_is_one_of_grpc_when_grpc_is_loaded_first() -> None:
    run("import grpc" + _MAKE + _CHECK)


def test_a_context_is_one_of_grpc_when_grpc_is_loaded_later() -> None:
    run(_MAKE + "assert 'grpc' not in sys.modules\nimport grpc" + _CHECK)


def test_and_when_it_has_been_asked_before() -> None:
    # The classes of grpc keep the answers that they have given.
    asked = "\nassert isinstance(context, RequestContext)\nassert not isinstance(context, str)\n"
    run(_MAKE + asked + "import grpc\nassert not isinstance(4, grpc.ServicerContext)" + _CHECK)


def test_a_context_is_one_of_grpc_with_the_face_of_grpcio() -> None:
    run(_MAKE + "import grpc, nri_sync.ttrpc" + _CHECK)
    run(
        "import nri_sync.ttrpc, grpc"
        + _MAKE
        + "assert issubclass(RequestContext, grpc.ServicerContext)"
        + _CHECK
    )


def test_status_codes_of_grpc_that_is_loaded_late() -> None:
    run(
        _MAKE + "import grpc, nri_sync\n"
        "context.set_code(grpc.StatusCode.NOT_FOUND)\n"
        "assert context.code() is nri_sync.StatusCode.NOT_FOUND\n"
    )
