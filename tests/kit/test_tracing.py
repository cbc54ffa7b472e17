"""Spans of requests and of calls."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import nri_sync
from nri_sync import api, kit
from nri_sync.runtime import Runtime
from tests.runtime.rig import LONG, Host, host_options

__all__: list[str] = []

POD = api.PodSandbox(id="pod0", name="web", namespace="default", uid="u-1")
CONTAINER = api.Container(id="ctr0", pod_sandbox_id="pod0", name="nginx")


class Spans:
    """Return a provider of tracers, and the exporter that receives its spans."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def named(self, name: str) -> Any:
        found = [span for span in self._exporter.get_finished_spans() if span.name == name]
        assert len(found) == 1, [span.name for span in self._exporter.get_finished_spans()]
        return found[0]


class Plugin:
    def __init__(self, spans: Spans) -> None:
        self.tracer = trace.get_tracer("plugin", tracer_provider=spans.provider)

    def create_container(self, pod: api.PodSandbox, container: api.Container) -> None:
        with self.tracer.start_as_current_span("work"):
            pass

    def start_container(self, pod: api.PodSandbox, container: api.Container) -> None:
        raise RuntimeError("not today")

    def validate_container_adjustment(self, request: Any) -> None:
        if request.container.name == "refused":
            raise ValueError("not this one")


@pytest.fixture
def spans() -> Spans:
    return Spans()


@pytest.fixture
def connected(spans: Spans, socket_dir: Path) -> Iterator[tuple[nri_sync.Stub, Runtime]]:
    tracing = kit.RequestTracing(tracer_provider=spans.provider)
    with Runtime("test", "v1", **host_options(Host(), socket_dir)) as runtime:
        stub = nri_sync.Stub(
            Plugin(spans),
            name="traced",
            idx="10",
            socket_path=str(socket_dir / "nri.sock"),
            interceptors=[tracing],
        )
        with stub:
            assert runtime.wait_for_plugins(lambda names: "10-traced" in names, timeout=LONG)
            yield stub, runtime


def test_a_request_is_a_span_and_the_parent_of_its_handlers_spans(
    connected: tuple[nri_sync.Stub, Runtime], spans: Spans
) -> None:
    connected[1].create_container(POD, CONTAINER)
    span, work = spans.named("nri.CreateContainer"), spans.named("work")
    assert work.parent.span_id == span.context.span_id
    assert span.kind is trace.SpanKind.SERVER
    assert dict(span.attributes) == {
        "rpc.system": "ttrpc",
        "rpc.service": "nri.pkg.api.v1alpha1.Plugin",
        "rpc.method": "CreateContainer",
        "nri.plugin": "10-traced",
        "k8s.namespace.name": "default",
        "k8s.pod.name": "web",
        "k8s.pod.uid": "u-1",
        "container.id": "ctr0",
        "k8s.container.name": "nginx",
    }
    assert span.status.is_ok or span.status.is_unset
    # A request without a pod.
    assert "k8s.pod.name" not in spans.named("nri.Configure").attributes


def test_an_error_of_a_handler(connected: tuple[nri_sync.Stub, Runtime], spans: Spans) -> None:
    with pytest.raises(Exception, match="not today"):
        connected[1].start_container(POD, CONTAINER)
    span = spans.named("nri.StartContainer")
    assert span.status.status_code is trace.StatusCode.ERROR
    assert span.events[0].attributes["exception.message"] == "not today"


def test_a_rejection(connected: tuple[nri_sync.Stub, Runtime], spans: Spans) -> None:
    refused = api.Container(id="ctr1", pod_sandbox_id="pod0", name="refused")
    with pytest.raises(Exception, match="not this one"):
        connected[1].create_container(POD, refused)
    span = spans.named("nri.ValidateContainerAdjustment")
    assert span.status.status_code is trace.StatusCode.ERROR
    assert "not this one" in span.status.description


def test_a_call_to_the_runtime(connected: tuple[nri_sync.Stub, Runtime], spans: Spans) -> None:
    connected[0].update_containers([api.ContainerUpdate(container_id="ctr0")])
    span = spans.named("nri.UpdateContainers")
    assert span.kind is trace.SpanKind.CLIENT
    assert span.attributes["rpc.service"] == "nri.pkg.api.v1alpha1.Runtime"


def test_the_context_goes_along() -> None:
    spans = Spans()
    tracing = kit.RequestTracing(plugin="x", tracer_provider=spans.provider)
    sent: dict[str, str] = {}

    def proceed(request: Any, metadata: Any) -> None:
        sent.update(metadata)
        raise ValueError("gone")

    with pytest.raises(ValueError, match="gone"):
        tracing.call("UpdateContainers", object(), [("own", "kept")], proceed)
    assert sent.pop("own") == "kept"
    client = spans.named("nri.UpdateContainers")
    assert client.status.status_code is trace.StatusCode.ERROR
    assert client.status.description == "ValueError: gone"
    assert f"{client.context.span_id:016x}" in sent["traceparent"]

    class Context:
        def invocation_metadata(self) -> Any:
            from nri_sync.rpc.context import Metadatum

            return [Metadatum(key, value) for key, value in sent.items()]

        def is_active(self) -> bool:
            return False

    context: Any = Context()
    tracing.serve("StopContainer", object(), context, lambda request, context: None)
    server = spans.named("nri.StopContainer")
    assert server.parent.span_id == client.context.span_id
    assert server.context.trace_id == client.context.trace_id
    assert server.attributes["nri.late"] is True


def test_the_error_without_opentelemetry_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from nri_sync import kit\n"
        "try:\n"
        "    kit.RequestTracing()\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True
    )
    assert "pip install 'nri_sync[otel]'" in done.stdout
