"""Traces with OpenTelemetry: a span for each request of the runtime, and for each call to it.

Needs the extra ``otel``, which is OpenTelemetry's API. The application sets up the destination of the spans, with
OpenTelemetry's SDK or its environment variables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nri_sync import RequestContext
from nri_sync.kit.intercept import NamedInterceptor, container_label
from nri_sync.plugin.interceptors import CallOn, Metadata, Proceed

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

__all__ = ["RequestTracing"]


class RequestTracing(NamedInterceptor):
    """An interceptor that makes spans, for ``Stub(interceptors=[...])``. Thread-safe.

    If the runtime sends its trace context, the span of a request is a child of the runtime's span. It is the
    current span in the handler, so the handler's spans are its children. Names and attributes follow
    OpenTelemetry's conventions for RPC and Kubernetes; ``nri.plugin`` is added.
    """

    def __init__(self, *, plugin: str = "", tracer_provider: TracerProvider | None = None) -> None:
        """
        Args:
            plugin: the plugin's name in the spans; default is that of the stub.
            tracer_provider: default is the application's global one.

        Raises ImportError if OpenTelemetry is not installed.
        """
        try:
            from opentelemetry import propagate, trace
        except ImportError as error:
            raise ImportError(
                f"{error}; to install it: pip install 'nri_sync[otel]'", name=error.name
            ) from error
        super().__init__(plugin)
        self._propagate = propagate
        self._trace = trace
        self._tracer = trace.get_tracer("nri_sync", tracer_provider=tracer_provider)

    def serve(self, event: str, request: Any, context: RequestContext, proceed: Proceed) -> Any:
        trace = self._trace
        sent = dict(context.invocation_metadata())
        with self._tracer.start_as_current_span(
            f"nri.{event}",
            context=self._propagate.extract(sent),
            kind=trace.SpanKind.SERVER,
            attributes=self._attributes(event, "Plugin", request),
        ) as span:
            reply = proceed(request, context)
            if not context.is_active():
                span.set_attribute("nri.late", True)
            if getattr(reply, "reject", False):
                span.set_status(trace.StatusCode.ERROR, reply.reason)
            return reply

    def call(self, method: str, request: Any, metadata: Metadata, proceed: CallOn) -> Any:
        with self._tracer.start_as_current_span(
            f"nri.{method}",
            kind=self._trace.SpanKind.CLIENT,
            attributes=self._attributes(method, "Runtime", request),
        ):
            sent = dict(metadata)
            self._propagate.inject(sent)
            return proceed(request, tuple(sent.items()))  # the span records an exception

    def _attributes(self, method: str, service: str, request: Any) -> dict[str, Any]:
        attributes = {
            "rpc.system": "ttrpc",
            "rpc.service": f"nri.pkg.api.v1alpha1.{service}",
            "rpc.method": method,
            "nri.plugin": self.plugin,
        }
        pod = getattr(request, "pod", None)
        if pod is not None and pod.id:
            attributes["k8s.namespace.name"] = pod.namespace
            attributes["k8s.pod.name"] = pod.name
            attributes["k8s.pod.uid"] = pod.uid
            container = getattr(request, "container", None)
            if container is not None and container.id:
                attributes["container.id"] = container.id
                attributes["k8s.container.name"] = container_label(container)
        return attributes
