"""The two services of the protocol, and the messages of their methods, in one table."""

from __future__ import annotations

from typing import Any, NamedTuple

from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from nri_sync.api import nri_pb2

__all__ = ["PARSE_ERRORS", "PLUGIN", "RUNTIME", "Method", "Service"]

#: Raised by ``FromString()`` for bytes that are no message. The pure-Python protobuf, which pip installs where no
#: compiled wheel fits, raises the second one for a text that is not UTF-8.
PARSE_ERRORS = (DecodeError, UnicodeDecodeError)


class Method(NamedTuple):
    """A method of a service."""

    #: The path of the method on a channel, ``"/nri.pkg.api.v1alpha1.Plugin/CreateContainer"``.
    path: str
    #: The classes of its messages.
    request: Any
    response: Any


class Service(NamedTuple):
    """A service, and its methods by name."""

    #: ``"nri.pkg.api.v1alpha1.Plugin"``
    full_name: str
    methods: dict[str, Method]


def _service(name: str) -> Service:
    service = nri_pb2.DESCRIPTOR.services_by_name[name]
    methods = {
        method.name: Method(
            f"/{service.full_name}/{method.name}",
            GetMessageClass(method.input_type),
            GetMessageClass(method.output_type),
        )
        for method in service.methods
    }
    return Service(service.full_name, methods)


#: The service that plugins implement.
PLUGIN = _service("Plugin")
#: The service that runtimes implement.
RUNTIME = _service("Runtime")
