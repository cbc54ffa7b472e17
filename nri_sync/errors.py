"""Every exception that nri_sync raises of its own accord.

::

    NRIError
     +-- ProtocolError               bytes or calls that break the mux or ttRPC protocol
     |    +-- LocalProtocolError     by this side: a bug in the caller
     |    +-- RemoteProtocolError    by the peer
     +-- ConnectionLost              a connection ended without this side asking for it
     +-- PluginError (TypeError)     the plugin object has no handlers, or wrong ones
     +-- IdentityError (ValueError)  plugin name, index or socket that cannot be used
     +-- Reject                      a handler refuses a request, by the policy of its plugin
     |    +-- AnnotationError (ValueError)   an annotation of a pod is not what the plugin expects
     |    +-- NotAllowed (PermissionError)   a pod asks for a thing that the configuration does not allow
     +-- ConfigError (ValueError)    a configuration that is not what the plugin expects
     +-- LifecycleError              a call that the state of the stub does not allow
     |    +-- AlreadyStarted         start() while a session is up
     |    +-- StubStopped            start() was ended by a stop()
     |    |    +-- StubClosed        start() after a close()
     |    +-- NotConnected           a call to the runtime without a session
     |    +-- WouldDeadlock          a blocking call that could never return
     |    +-- RuntimeStopped         the Runtime is not started, or was stopped meanwhile
     |    +-- TurnTaken              another instance of the plugin has taken over
     |    +-- QueueClosed            something new for a queue that has been closed
     +-- QueueFull                   a queue holds as much as it may
     +-- UpdateFailed                a queued update of a container was not applied
     +-- StoreError                  the file that keeps what is known cannot be used
     +-- OwnershipConflict (ValueError)   two plugins set the same thing in a container
     +-- ConflictError               the answers of plugins do not go together
     +-- SpecError (ValueError)      an adjustment cannot be applied to an OCI specification
     +-- ValidationRejected          a validator refused what the plugins have set
     +-- CallFailed                  a call to the other side failed, with a StatusCode
     +-- RequestFailed               a plugin has made a request of the Runtime fail
     |    +-- NoAnswer               ... by not answering: too slow, disconnected, or not understood
     +-- NoThread (RuntimeError)     the system has no thread to give
     +-- RequestTimeout (TimeoutError)    the caller's own time for a request was over
     +-- Unsupported (RuntimeError)  this process cannot use nri_sync, as under gevent's monkey-patching
     +-- StartError                  start() failed; ``phase`` tells how far it got
          +-- ConnectionSpent        there is nothing to connect to again
          +-- StartTimeout (TimeoutError)

Failures of calls on a channel of :mod:`nri_sync.ttrpc` are not here: they are ``grpc.RpcError``, as in grpcio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nri_sync.text import printable

if TYPE_CHECKING:
    from typing import Any

    from nri_sync.codes import StatusCode

# The characters of the text of an error.
_LONGEST = 4000

__all__ = [
    "AlreadyStarted",
    "AnnotationError",
    "CallFailed",
    "ConfigError",
    "ConflictError",
    "ConnectionLost",
    "ConnectionSpent",
    "IdentityError",
    "LifecycleError",
    "LocalProtocolError",
    "NRIError",
    "NoAnswer",
    "NoThread",
    "NotAllowed",
    "NotConnected",
    "OwnershipConflict",
    "PluginError",
    "ProtocolError",
    "QueueClosed",
    "QueueFull",
    "Reject",
    "RemoteProtocolError",
    "RequestFailed",
    "RequestTimeout",
    "RuntimeStopped",
    "SpecError",
    "StartError",
    "StartTimeout",
    "StoreError",
    "StubClosed",
    "StubStopped",
    "TurnTaken",
    "Unsupported",
    "UpdateFailed",
    "ValidationRejected",
    "WouldDeadlock",
]


class NRIError(Exception):
    """Base of all exceptions that nri_sync defines.

    ``str(error)`` is one printable line: a pod, a runtime or a plugin may have brought in parts of it.
    """

    def __str__(self) -> str:
        return printable(super().__str__(), _LONGEST)


class ProtocolError(NRIError):
    """The mux or ttRPC protocol was broken; never raised itself, only as one of its two kinds."""


class LocalProtocolError(ProtocolError):
    """This side tried something that the protocol forbids; nothing was sent."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something after which its byte stream cannot be understood any more."""


class ConnectionLost(NRIError):
    """A connection ended without this side having asked for it.

    ``phase`` is what the session was doing: ``"register"``, ``"configure"``, ``"synchronize"`` or
    ``"serve"`` for a plugin, ``None`` for a plain ttRPC connection.
    """

    def __init__(self, message: str, *, phase: str | None = None) -> None:
        super().__init__(message)
        self.phase = phase


class PluginError(NRIError, TypeError):
    """The plugin object cannot be served: it has no handlers, or some of a wrong name or shape."""


class IdentityError(NRIError, ValueError):
    """The plugin's name, index, or way to the runtime is missing or not usable."""


class Reject(NRIError):
    """Raised by a handler to refuse a request: the policy of the plugin does not allow what the pod asks for.

    The request fails with PERMISSION_DENIED and the text, which the events of the pod show; a validator rejects
    with it. A refusal is no failure of the plugin: the stub logs one line at WARNING, without a traceback, and
    counts it among the ``rejections``, not the ``errors``.
    """


class AnnotationError(Reject, ValueError):
    """An annotation of a pod is not what the plugin expects."""


class NotAllowed(Reject, PermissionError):
    """A pod asks for a thing that the configuration of the plugin does not allow."""


class ConfigError(NRIError, ValueError):
    """A configuration is not what the plugin expects; the text has a line for each ``problem``.

    ``source`` is where it came from, such as the path of a file.
    """

    def __init__(self, source: str, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(f"{source}: {problem}" for problem in problems))
        self.source = source
        self.problems = problems

    def __str__(self) -> str:
        lines = (printable(f"{self.source}: {problem}", _LONGEST) for problem in self.problems)
        return "\n".join(lines)


class StoreError(NRIError):
    """The file that keeps what is known across restarts cannot be used; the text has its path and the reason."""


class LifecycleError(NRIError):
    """The stub's state does not allow this call."""


class AlreadyStarted(LifecycleError):
    """``start()`` was called while a session is starting, up, or ending."""


class StubStopped(LifecycleError):
    """``start()`` was ended by a ``stop()`` from elsewhere."""


class StubClosed(StubStopped):
    """``start()`` was called after ``close()``, which ends a stub for good."""


class NotConnected(LifecycleError):
    """The call needs a session with the runtime, and there is none."""


class WouldDeadlock(LifecycleError):
    """The call could only return after the code that makes it has: a handler, or a callback."""


class RuntimeStopped(LifecycleError):
    """The Runtime is not started, or was stopped while it served this call."""


class TurnTaken(LifecycleError):
    """Another instance of the plugin has taken over, as this one gave no sign of life (``nri_sync.Handover``)."""


class QueueClosed(LifecycleError):
    """An UpdateQueue, or Background, takes nothing more: it was closed."""


class QueueFull(NRIError):
    """An UpdateQueue, or Background, holds as much as it may."""


class UpdateFailed(NRIError):
    """An update, or eviction, from an UpdateQueue was not applied, and will not be tried again.

    ``reason`` is ``"refused"`` by the runtime, ``"removed"`` as the container is gone, or ``"closed"`` with the
    queue. ``update`` and ``eviction`` are the messages of container ``container_id``, None where there is none.
    ``__cause__`` is what the call raised, if it did.
    """

    def __init__(
        self, message: str, *, container_id: str, reason: str, update: Any, eviction: Any
    ) -> None:
        super().__init__(message)
        self.container_id = container_id
        self.reason = reason
        self.update = update
        self.eviction = eviction


class CallFailed(NRIError):
    """A call to the other side failed: it answered with an error, or did not answer.

    ``method`` is the full name, ``/package.Service/Method``; ``rich`` is a serialized ``google.rpc.Status``, where
    the peer sent more than code and text. ``__cause__`` is None if the peer answered with the error; otherwise it
    is the reason why this side gave up: a TimeoutError, ConnectionLost or RemoteProtocolError.
    """

    def __init__(
        self, method: str, code: StatusCode, details: str, rich: bytes | None = None
    ) -> None:
        super().__init__(method, code, details)
        self.method = method
        self.rich = rich
        self._code = code
        self._details = details

    def __str__(self) -> str:
        return printable(f"{self.method} failed: {self._code.name}: {self._details}", _LONGEST)

    def code(self) -> StatusCode:
        """The status code; UNKNOWN for a number that gRPC does not define."""
        return self._code

    def details(self) -> str:
        """The text that came with the code."""
        return self._details


class RequestFailed(NRIError):
    """A plugin has made a request fail that the Runtime relayed: it answered with an error.

    ``plugin`` is its full name, ``event`` the name of the RPC, ``reason`` what the plugin said. ``__cause__``
    is a CallFailed with the status code, or what the handler of an in-process plugin has raised.
    """

    def __init__(self, message: str, *, plugin: str, event: str, reason: str) -> None:
        super().__init__(message)
        self.plugin = plugin
        self.event = event
        self.reason = reason


class NoAnswer(RequestFailed):
    """A plugin did not answer, and its failure policy, or that it validates, makes the request fail.

    ``__cause__`` tells why: a TimeoutError, ConnectionLost or RemoteProtocolError.
    """


class RequestTimeout(NRIError, TimeoutError):
    """The time that the caller gave for a request was over before all plugins had answered."""


class StartError(NRIError):
    """``start()`` failed and released everything; the stub, or Runtime, can be started again.

    ``phase`` is the step that failed: for a stub ``"dial"``, ``"register"`` or ``"configure"``, for a Runtime
    ``"discover"``, ``"plugins"``, ``"synchronize"`` or ``"listen"``. The reason, where it was an exception, is
    ``__cause__``.
    """

    def __init__(self, message: str, *, phase: str) -> None:
        super().__init__(message)
        self.phase = phase


class NoThread(NRIError, RuntimeError):
    """The system has no thread to give: a limit of processes or of memory is reached.

    Such as ``ulimit -u``, ``pids.max`` of the cgroup or ``podPidsLimit`` of the kubelet. ``__cause__`` is Python's
    own error.
    """


class Unsupported(NRIError, RuntimeError):
    """nri_sync cannot work in this process: a library has replaced threads and ``select`` by its own."""


class ConnectionSpent(StartError):
    """The one connection that the stub was given, or inherited, has been used: each further start fails."""


class StartTimeout(StartError, TimeoutError):
    """``start()`` did not get through its ``phase`` before the deadline."""


class OwnershipConflict(NRIError, ValueError):
    """Two plugins set the same thing in a container.

    ``plugin`` came later, ``other`` holds it, or has cleared it for itself. ``field`` is the number
    of the api.Field, and ``key`` the entry if the field is a map or list, else None.
    """

    def __init__(
        self, message: str, *, plugin: str, other: str, field: int, key: str | None
    ) -> None:
        super().__init__(message)
        self.plugin = plugin
        self.other = other
        self.field = field
        self.key = key


class ConflictError(NRIError):
    """The answer of ``plugin`` cannot be merged with those before it, so the request fails.

    The text is the reference runtime's. ``__cause__`` is an OwnershipConflict if it was one; otherwise
    the plugin wanted to update the container that is being created.
    """

    def __init__(self, message: str, *, plugin: str) -> None:
        super().__init__(message)
        self.plugin = plugin


class SpecError(NRIError, ValueError):
    """An adjustment cannot be applied to an OCI runtime specification."""


class ValidationRejected(NRIError):
    """A validator refused what the plugins have set; ``validator`` and ``reason`` tell the rest.

    The text is the reference runtime's.
    """

    def __init__(self, validator: str, reason: str) -> None:
        super().__init__(
            f'validator "{validator}" rejected container adjustment,'
            f" reason: {reason or 'unknown rejection reason'}"
        )
        self.validator = validator
        self.reason = reason
