"""Interceptors written for grpcio work over ttRPC: of clients, all four kinds, and of servers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Callable, NamedTuple

import grpc
import pytest

from nri_sync.ttrpc import connect
from tests.ttrpc.rig import LONG, Calls, StringValue, echo, error_of, method, serving, text

__all__: list[str] = []


class Details(NamedTuple):
    method: str
    timeout: Any
    metadata: Any
    credentials: Any = None
    wait_for_ready: Any = None
    compression: Any = None


class CallDetails(Details, grpc.ClientCallDetails):
    pass


class Tagging(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Adds metadata to every call."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def _intercept(self, kind: str, continuation: Any, details: Any, request: Any) -> Any:
        self.seen.append(f"{kind} {details.method}")
        tagged = CallDetails(details.method, details.timeout, (("tag", kind),))
        return continuation(tagged, request)

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return self._intercept("unary_unary", continuation, details, request)

    def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return self._intercept("unary_stream", continuation, details, request)

    def intercept_stream_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return self._intercept("stream_unary", continuation, details, request)

    def intercept_stream_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return self._intercept("stream_stream", continuation, details, request)


def tag(context: Any) -> StringValue:
    return text(dict(context.invocation_metadata()).get("tag", ""))


def tags() -> dict[str, Any]:
    return {
        "UnaryUnary": method("unary_unary", lambda request, context: tag(context)),
        "UnaryStream": method("unary_stream", lambda request, context: iter([tag(context)])),
        "StreamUnary": method("stream_unary", lambda requests, context: tag(context)),
        "StreamStream": method("stream_stream", lambda requests, context: iter([tag(context)])),
        "Fail": method(
            "unary_unary", lambda r, context: context.abort(grpc.StatusCode.ABORTED, "x")
        ),
    }


@pytest.fixture
def tagging() -> Tagging:
    return Tagging()


@pytest.fixture
def calls(tagging: Tagging) -> Iterator[Calls]:
    with serving(tags()) as (_, address), connect(address) as channel:
        yield Calls(grpc.intercept_channel(channel, tagging))


class TestClients:
    def test_unary_unary(self, calls: Calls, tagging: Tagging) -> None:
        unary = calls.unary("UnaryUnary")
        assert unary(text("")).value == "unary_unary"
        response, call = unary.with_call(text(""))
        assert (response.value, call.code()) == ("unary_unary", grpc.StatusCode.OK)
        assert unary.future(text("")).result(LONG).value == "unary_unary"
        assert tagging.seen == ["unary_unary /test.Service/UnaryUnary"] * 3

    def test_unary_stream(self, calls: Calls) -> None:
        assert [m.value for m in calls.stream("UnaryStream")(text(""))] == ["unary_stream"]

    def test_stream_unary(self, calls: Calls) -> None:
        collect = calls.collect("StreamUnary")
        assert collect(iter([text("")])).value == "stream_unary"
        assert collect.future(iter([text("")])).result(LONG).value == "stream_unary"

    def test_stream_stream(self, calls: Calls) -> None:
        responses = calls.chat("StreamStream")(iter([text("")]))
        assert [m.value for m in responses] == ["stream_stream"]

    def test_errors_pass_through(self, calls: Calls) -> None:
        expected = (grpc.StatusCode.ABORTED, "x")
        assert error_of(lambda: calls.unary("Fail")(text(""))) == expected
        assert error_of(calls.unary("Fail").future(text("")).result) == expected

    def test_retrying(self) -> None:
        tries: list[int] = []

        def sometimes(request: StringValue, context: Any) -> StringValue:
            tries.append(1)
            if len(tries) < 3:
                context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
            return request

        class Retry(grpc.UnaryUnaryClientInterceptor):
            def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
                while True:
                    call = continuation(details, request)
                    if call.code() is not grpc.StatusCode.UNAVAILABLE:
                        return call

        with serving({"M": method("unary_unary", sometimes)}) as (_, address):
            channel = grpc.intercept_channel(connect(address), Retry())
            with channel:
                assert Calls(channel).unary("M")(text("x")).value == "x"
        assert len(tries) == 3


class TestServers:
    def test_a_handler_can_be_wrapped(self) -> None:
        class Shout(grpc.ServerInterceptor):
            def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
                handler = continuation(details)
                if handler is None:
                    return None

                def behaviour(request: Any, context: Any) -> Any:
                    return text(handler.unary_unary(request, context).value.upper())

                return grpc.unary_unary_rpc_method_handler(
                    behaviour, handler.request_deserializer, handler.response_serializer
                )

        with serving(interceptors=[Shout()]) as (_, address), connect(address) as channel:
            assert Calls(channel).unary("Echo")(text("hi")).value == "HI"
            code = error_of(lambda: Calls(channel).unary("Nope")(text("hi")))[0]
            assert code is grpc.StatusCode.UNIMPLEMENTED

    def test_a_call_can_be_refused(self) -> None:
        class Refuse(grpc.ServerInterceptor):
            def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
                if dict(details.invocation_metadata).get("token") == "secret":
                    return continuation(details)

                def refuse(request: Any, context: Any) -> None:
                    context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")

                return grpc.unary_unary_rpc_method_handler(refuse)

        handlers = {"Echo": method("unary_unary", echo)}
        with (
            serving(handlers, interceptors=[Refuse()]) as (_, address),
            connect(address) as channel,
        ):
            unary = Calls(channel).unary("Echo")
            assert unary(text("hi"), metadata=(("token", "secret"),)).value == "hi"
            assert error_of(lambda: unary(text("hi")))[1] == "no token"
