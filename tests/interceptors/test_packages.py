"""Published interceptors for grpcio, over ttRPC: their spans and metrics are right."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
from opentelemetry.instrumentation.grpc import client_interceptor, server_interceptor
from opentelemetry.instrumentation.grpc.grpcext import intercept_channel
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from prometheus_client import CollectorRegistry
from py_grpc_prometheus.prometheus_client_interceptor import PromClientInterceptor
from py_grpc_prometheus.prometheus_server_interceptor import PromServerInterceptor

from nri_sync.ttrpc import connect
from tests.ttrpc.rig import Calls, StringValue, echo, error_of, eventually, method, serving, text

__all__: list[str] = []


def count(message: StringValue, context: Any) -> Iterator[StringValue]:
    for number in range(3):
        yield text(str(number))


def fail(message: StringValue, context: Any) -> StringValue:
    context.abort(grpc.StatusCode.NOT_FOUND, "gone")
    raise AssertionError


def total(requests: Iterator[StringValue], context: Any) -> StringValue:
    return text("".join(message.value for message in requests))


HANDLERS = {
    "Echo": method("unary_unary", echo),
    "Fail": method("unary_unary", fail),
    "Count": method("unary_stream", count),
    "Total": method("stream_unary", total),
}


class TestOpenTelemetry:
    def traced(self) -> tuple[Any, Any]:
        """A provider of tracers, and the list that its spans end up in."""
        exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        return provider, exporter

    def test_one_trace_across_the_connection(self) -> None:
        provider, exporter = self.traced()
        server_side = server_interceptor(tracer_provider=provider)
        client_side = client_interceptor(tracer_provider=provider)
        with serving(HANDLERS, interceptors=[server_side]) as (_, address):
            with connect(address) as plain:
                calls = Calls(intercept_channel(plain, client_side))
                assert calls.unary("Echo")(text("x")).value == "x"
                assert calls.unary("Echo").future(text("y")).result().value == "y"
                assert error_of(lambda: calls.unary("Fail")(text("x")))[1] == "gone"
                assert [m.value for m in calls.stream("Count")(text(""))] == ["0", "1", "2"]
                assert calls.collect("Total")(map(text, "ab")).value == "ab"
            assert eventually(lambda: len(exporter.get_finished_spans()) == 10)
        spans = exporter.get_finished_spans()
        clients = [span for span in spans if span.kind is SpanKind.CLIENT]
        servers = {s.parent.span_id: s for s in spans if s.kind is SpanKind.SERVER and s.parent}
        assert sorted(span.name.rpartition("/")[2] for span in clients) == [
            "Count", "Echo", "Echo", "Fail", "Total",
        ]  # fmt: skip
        for client in clients:
            # The metadata carries the context, so the server's span is a child of the client's.
            server = servers[client.context.span_id]
            assert server.name == client.name
            assert server.context.trace_id == client.context.trace_id
            code = 5 if client.name.endswith("Fail") else 0
            for span in (server, client):
                assert span.attributes["rpc.grpc.status_code"] == code
                assert span.attributes["rpc.service"] == "test.Service"
                assert span.status.is_ok == (code == 0) or span.status.is_unset


class TestPrometheus:
    def test_both_sides_count(self) -> None:
        registry = CollectorRegistry()
        server_side = PromServerInterceptor(registry=registry, enable_handling_time_histogram=True)
        client_side = PromClientInterceptor(registry=registry)
        with (
            serving(HANDLERS, interceptors=[server_side]) as (_, address),
            connect(address) as plain,
        ):
            calls = Calls(grpc.intercept_channel(plain, client_side))
            for _ in range(3):
                assert calls.unary("Echo")(text("x")).value == "x"
            assert error_of(lambda: calls.unary("Fail")(text("x")))[1] == "gone"
            assert [m.value for m in calls.stream("Count")(text(""))] == ["0", "1", "2"]

        def sample(name: str, grpc_method: str, kind: str = "UNARY", **labels: str) -> float | None:
            every = {
                "grpc_type": kind, "grpc_service": "test.Service", "grpc_method": grpc_method,
                **labels,
            }  # fmt: skip
            value: float | None = registry.get_sample_value(name, every)
            return value

        assert sample("grpc_server_started_total", "Echo") == 3
        assert eventually(lambda: sample("grpc_server_handled_total", "Echo", grpc_code="OK") == 3)
        assert sample("grpc_server_handling_seconds_count", "Echo") == 3
        assert sample("grpc_server_handled_total", "Fail", grpc_code="NOT_FOUND") == 1
        assert sample("grpc_server_msg_sent_total", "Count", "SERVER_STREAMING") == 3
        assert sample("grpc_client_started_total", "Echo") == 3
        assert sample("grpc_client_handled_total", "Echo", grpc_code="OK") == 3
        assert sample("grpc_client_handled_total", "Fail", grpc_code="NOT_FOUND") == 1
        assert sample("grpc_client_msg_received_total", "Count", "SERVER_STREAMING") == 3
