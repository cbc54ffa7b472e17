"""All exceptions that nri_sync defines.

::

    NRIError
     +-- ProtocolError               bytes or calls that break the mux or ttRPC protocol
     |    +-- LocalProtocolError     by this side: a bug in the caller
     |    +-- RemoteProtocolError    by the peer
     +-- ConnectionLost              a connection ended, and this side did not request it
     +-- PluginError (TypeError)     the plugin object has no handlers, or invalid ones
     +-- IdentityError (ValueError)  a plugin name, index or socket that cannot be used
     +-- Reject                      a handler refuses a request, by the policy of its plugin
     |    +-- AnnotationError (ValueError)   an annotation of a pod has an invalid form
     |    +-- NotAllowed (PermissionError)   a pod asks for a thing that the configuration does not allow
     +-- ConfigError (ValueError)    a configuration has an invalid form
     +-- LifecycleError              a call that the state of the stub does not allow
     |    +-- AlreadyStarted         start() while a session is up
     |    +-- StubStopped            start() was ended by a stop()
     |    |    +-- StubClosed        start() after a close()
     |    +-- NotConnected           a call to the runtime without a session
     |    +-- WouldDeadlock          a blocking call that could never return
     |    +-- RuntimeStopped         the Runtime is not started, or was stopped during the call
     |    +-- TurnTaken              another instance of the plugin has taken over
     |    +-- QueueClosed            a new entry for a closed queue
     +-- QueueFull                   a queue has its largest number of entries
     +-- UpdateFailed                a queued update of a container was not applied
     +-- StoreError                  the file of an inventory's store cannot be used
     +-- OwnershipConflict (ValueError)   two plugins set the same field of a container
     +-- ConflictError               the answers of two plugins conflict
     +-- SpecError (ValueError)      an adjustment cannot be applied to an OCI specification
     +-- ValidationRejected          a validator rejected the adjustment of the plugins
     +-- CallFailed                  a call to the other side failed, with a StatusCode
     +-- RequestFailed               a plugin answered a request of the Runtime with an error
     |    +-- NoAnswer               ... did not answer it: too slow, disconnected, or not understood
     +-- NoThread (RuntimeError)     the system can start no more threads
     +-- RequestTimeout (TimeoutError)    the caller's timeout for a request passed
     +-- Unsupported (RuntimeError)  this process cannot use nri_sync, for example under gevent's monkey-patching
     +-- StartError                  start() failed; ``phase`` is the failed step
          +-- ConnectionSpent        the only connection of the stub has been used
          +-- StartTimeout (TimeoutError)

A failed call on a channel of :mod:`nri_sync.ttrpc` raises ``grpc.RpcError``, as in grpcio, and not one of these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nri_sync.text import printable

if TYPE_CHECKING:
    from typing import Any

    from nri_sync.codes import StatusCode

# The largest number of characters in the text of an error.
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
    """Base class of all exceptions that nri_sync defines.

    ``str(error)`` is one printable line, because parts of it may come from a pod, a runtime or a plugin.
    """

    def __str__(self) -> str:
        return printable(super().__str__(), _LONGEST)


class ProtocolError(NRIError):
    """A violation of the mux or ttRPC protocol. Only its two subclasses are raised."""


class LocalProtocolError(ProtocolError):
    """This side tried to send a message that the protocol forbids. Nothing was sent."""


class RemoteProtocolError(ProtocolError):
    """The peer sent bytes that violate the protocol, so that the rest of its byte stream cannot be parsed."""


class ConnectionLost(NRIError):
    """A connection ended, and this side did not request it.

    ``phase`` is the step of the session at that time: ``"register"``, ``"configure"``, ``"synchronize"`` or
    ``"serve"`` for a plugin, ``None`` for a plain ttRPC connection.
    """

    def __init__(self, message: str, *, phase: str | None = None) -> None:
        super().__init__(message)
        self.phase = phase


class PluginError(NRIError, TypeError):
    """The plugin object cannot be served: it has no handlers, or handlers with a wrong name or signature."""


class IdentityError(NRIError, ValueError):
    """The plugin's name, index, or path to the runtime is missing or invalid."""


class Reject(NRIError):
    """A handler raises it to refuse a request: the policy of the plugin does not allow the request of the pod.

    The request fails with PERMISSION_DENIED and the text, which the events of the pod show. A validator raises it
    to reject an adjustment. A refusal is not a failure of the plugin: the stub logs one line at WARNING, without a
    traceback, and counts it in ``rejections``, not in ``errors``.
    """


class AnnotationError(Reject, ValueError):
    """An annotation of a pod does not have the form that the plugin expects."""


class NotAllowed(Reject, PermissionError):
    """A pod requests a resource that the configuration of the plugin does not allow."""


class ConfigError(NRIError, ValueError):
    """A configuration does not have the form that the plugin expects. The text has a line for each ``problem``.

    ``source`` is the origin of the configuration, such as the path of a file.
    """

    def __init__(self, source: str, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(f"{source}: {problem}" for problem in problems))
        self.source = source
        self.problems = problems

    def __str__(self) -> str:
        lines = (printable(f"{self.source}: {problem}", _LONGEST) for problem in self.problems)
        return "\n".join(lines)


class StoreError(NRIError):
    """The file of an inventory's store cannot be used. The text has the path and the reason."""


class LifecycleError(NRIError):
    """The stub's state does not allow this call."""


class AlreadyStarted(LifecycleError):
    """``start()`` was called while a session starts, runs, or ends."""


class StubStopped(LifecycleError):
    """A ``stop()`` from another place ended ``start()``."""


class StubClosed(StubStopped):
    """``start()`` was called after ``close()``, which ends a stub for good."""


class NotConnected(LifecycleError):
    """The call needs a session with the runtime, and the stub has none."""


class WouldDeadlock(LifecycleError):
    """The call could never return: it waits for the handler or callback that makes it."""


class RuntimeStopped(LifecycleError):
    """The Runtime is not started, or was stopped during this call."""


class TurnTaken(LifecycleError):
    """Another instance of the plugin has taken over, because this one gave no sign of life: see ``Handover``."""


class QueueClosed(LifecycleError):
    """The UpdateQueue or Background has been closed, and accepts no new entries."""


class QueueFull(NRIError):
    """The UpdateQueue or Background has its largest number of entries."""


class UpdateFailed(NRIError):
    """An update or eviction from an UpdateQueue was not applied, and will not be sent again.

    ``reason`` is ``"refused"`` (by the runtime), ``"removed"`` (the container) or ``"closed"`` (the queue).
    ``update`` and ``eviction`` are the messages for the container ``container_id``; one of them may be None.
    ``__cause__`` is the exception of the call, if it raised one.
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
    """A call to the peer failed: the peer answered with an error, or did not answer.

    ``method`` is the full name, ``/package.Service/Method``. ``rich`` is a serialized ``google.rpc.Status`` if the
    peer sent details beyond code and text. ``__cause__`` is None if the peer answered with the error. Otherwise it
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
        """The text that the peer sent with the code."""
        return self._details


class RequestFailed(NRIError):
    """A plugin answered a request of the Runtime with an error.

    ``plugin`` is the full name of the plugin, ``event`` the name of the RPC, ``reason`` the text of the error.
    ``__cause__`` is a CallFailed with the status code, or the exception of a handler of an in-process
    plugin.
    """

    def __init__(self, message: str, *, plugin: str, event: str, reason: str) -> None:
        super().__init__(message)
        self.plugin = plugin
        self.event = event
        self.reason = reason


class NoAnswer(RequestFailed):
    """A plugin did not answer, and it is a validator or its failure policy fails the request.

    ``__cause__`` is the reason: a TimeoutError, ConnectionLost or RemoteProtocolError.
    """


class RequestTimeout(NRIError, TimeoutError):
    """The caller's timeout for a request passed before all plugins had answered."""


class StartError(NRIError):
    """``start()`` failed and released everything. The stub or Runtime can be started again.

    ``phase`` is the failed step: for a stub ``"dial"``, ``"register"`` or ``"configure"``, for a Runtime
    ``"discover"``, ``"plugins"``, ``"synchronize"`` or ``"listen"``. If the reason is an exception, it is
    ``__cause__``.
    """

    def __init__(self, message: str, *, phase: str) -> None:
        super().__init__(message)
        self.phase = phase


class NoThread(NRIError, RuntimeError):
    """The system can start no more threads, because a limit of processes or of memory is reached.

    Such limits are ``ulimit -u``, ``pids.max`` of the cgroup and ``podPidsLimit`` of the kubelet. ``__cause__`` is
    Python's error.
    """


class Unsupported(NRIError, RuntimeError):
    """nri_sync cannot work in this process, because a library has replaced threads and ``select``."""


class ConnectionSpent(StartError):
    """The only connection of the stub, passed to it or inherited, has been used. Each further start fails."""


class StartTimeout(StartError, TimeoutError):
    """``start()`` did not finish its ``phase`` before the deadline."""


class OwnershipConflict(NRIError, ValueError):
    """Two plugins set the same field of a container.

    ``plugin`` is the later one. ``other`` owns the field, or has cleared it for itself. ``field`` is the number of
    the api.Field. ``key`` is the entry if the field is a map or list, otherwise None.
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
    """The answer of ``plugin`` conflicts with the answer of an earlier plugin, so the request fails.

    The text is that of the reference runtime. ``__cause__`` is the OwnershipConflict. It is None if the plugin
    requested an update of the container that is being created.
    """

    def __init__(self, message: str, *, plugin: str) -> None:
        super().__init__(message)
        self.plugin = plugin


class SpecError(NRIError, ValueError):
    """An adjustment cannot be applied to an OCI runtime specification."""


class ValidationRejected(NRIError):
    """The validator ``validator`` rejected the adjustment of the plugins, for the given ``reason``.

    The text is that of the reference runtime.
    """

    def __init__(self, validator: str, reason: str) -> None:
        super().__init__(
            f'validator "{validator}" rejected container adjustment,'
            f" reason: {reason or 'unknown rejection reason'}"
        )
        self.validator = validator
        self.reason = reason
