"""The handlers of a server as grpcio has them, and interceptors around them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable

import grpc
import pytest

from nri_sync.rpc.context import Metadatum
from nri_sync.rpc.router import MethodHandler
from nri_sync.ttrpc import connect
from nri_sync.ttrpc.router import HandlerCallDetails, Router
from tests.ttrpc.rig import LONG, Calls, echo, error_of, method, serving, text

__all__: list[str] = []

Code = grpc.StatusCode
ECHO = method("unary_unary", echo)
OTHER = method("unary_unary", echo)


def test_generic_handlers_are_asked_in_order() -> None:
    class Any_(grpc.GenericRpcHandler):
        def service(self, handler_call_details: Any) -> Any:
            assert isinstance(handler_call_details, grpc.HandlerCallDetails)
            return OTHER if handler_call_details.method.startswith("/a.B") else None

    router = Router()
    router.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("a.B", {"C": ECHO}), Any_())
    )
    assert router.find("/a.B/C", ()) is ECHO
    assert router.find("/a.B/D", ()) is OTHER
    assert router.find("/b.B/D", ()) is None
    assert router.has_service("a.B")


def test_a_registered_method_comes_first() -> None:
    router = Router()
    router.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a.B", {"C": OTHER}),))
    router.add_registered_method_handlers("a.B", {"C": ECHO})
    assert router.find("/a.B/C", ()) is ECHO


def test_other_objects_than_handlers_are_refused() -> None:
    router = Router()
    good = grpc.method_handlers_generic_handler("a.B", {"C": ECHO})
    with pytest.raises(TypeError, match="GenericRpcHandler"):
        router.add_generic_rpc_handlers([good, object()])
    # All or none.
    assert not router.has_service("a.B")


def test_a_handler_may_be_added_while_a_call_looks_for_its_own() -> None:
    # A handler that looks among the others, and adds one: each search sees the table of one moment.
    router = Router()

    class Adding(grpc.GenericRpcHandler):
        def service(self, handler_call_details: Any) -> Any:
            name = handler_call_details.method.rpartition("/")[2]
            later = grpc.method_handlers_generic_handler("a.B", {name: ECHO})
            router.add_generic_rpc_handlers([later])
            return None

    router.add_generic_rpc_handlers([Adding()])
    assert router.find("/a.B/C", ()) is None
    assert router.find("/a.B/C", ()) is ECHO


def test_handlers_that_several_threads_add_are_all_there() -> None:
    router = Router()
    barrier = threading.Barrier(4)

    def add(first: int) -> None:
        barrier.wait(LONG)
        for number in range(first, 400, 4):
            router.add_registered_method_handlers(f"a.S{number}", {"C": ECHO})
            router.add_generic_rpc_handlers(
                [grpc.method_handlers_generic_handler(f"a.G{number}", {"C": OTHER})]
            )
            assert router.find(f"/a.S{number}/C", ()) is ECHO

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(4)))
    for number in range(400):
        assert router.find(f"/a.S{number}/C", ()) is ECHO
        assert router.find(f"/a.G{number}/C", ()) is OTHER
        assert router.has_service(f"a.S{number}")


def test_interceptors_the_first_is_outermost() -> None:
    seen: list[tuple[str, str, object]] = []

    class Tracer(grpc.ServerInterceptor):
        def __init__(self, name: str) -> None:
            self.name = name

        def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
            seen.append((self.name, details.method, details.invocation_metadata))
            return continuation(details)

    router = Router([Tracer("outer"), Tracer("inner")])
    router.add_registered_method_handlers("a.B", {"C": ECHO})
    metadata = (Metadatum("k", "v"),)
    assert router.find("/a.B/C", metadata) is ECHO
    assert router.find("/no/thing", ()) is None
    assert seen == [
        ("outer", "/a.B/C", metadata),
        ("inner", "/a.B/C", metadata),
        ("outer", "/no/thing", ()),
        ("inner", "/no/thing", ()),
    ]


def test_an_interceptor_may_answer_itself_or_rewrite() -> None:
    class Redirect(grpc.ServerInterceptor):
        def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
            if details.method == "/x/y":
                return OTHER
            return continuation(HandlerCallDetails("/a.B/C", ()))

    router = Router([Redirect()])
    router.add_registered_method_handlers("a.B", {"C": ECHO})
    assert router.find("/x/y", ()) is OTHER
    assert router.find("/any/thing", ()) is ECHO


@pytest.mark.parametrize("other", [object(), None, echo])
def test_other_objects_than_interceptors_are_refused(other: Any) -> None:
    with pytest.raises(TypeError, match="ServerInterceptor"):
        Router([other])


@pytest.mark.parametrize("found", [5, object(), echo])
def test_an_interceptor_that_returns_no_handler(found: Any) -> None:
    class Wrong(grpc.ServerInterceptor):
        def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
            return found

    with serving(interceptors=[Wrong()]) as (_, address), connect(address) as channel:
        assert error_of(lambda: Calls(channel).unary("Echo")(text("x")))[0] is Code.UNKNOWN


def test_broken_requests_are_an_error_of_grpc() -> None:
    assert issubclass(Router.requests_broken, grpc.RpcError)


def test_a_handler_of_the_stub_is_one_of_grpc() -> None:
    assert isinstance(MethodHandler(echo), grpc.RpcMethodHandler)
