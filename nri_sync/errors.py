"""Every exception that nri_sync raises of its own accord.

::

    NRIError
     +-- ProtocolError               bytes or calls that break the mux or ttRPC protocol
     |    +-- LocalProtocolError     by this side: a bug in the caller
     |    +-- RemoteProtocolError    by the peer
     +-- ConnectionLost              a connection ended without this side asking for it
     +-- PluginError (TypeError)     the plugin object has no handlers, or wrong ones
     +-- IdentityError (ValueError)  plugin name, index or socket that cannot be used
     +-- LifecycleError              a call that the state of the stub does not allow
     |    +-- AlreadyStarted         start() while a session is up
     |    +-- StubStopped            start() was ended by a stop()
     |    +-- NotConnected           a call to the runtime without a session
     |    +-- WouldDeadlock          a blocking call that the runtime could never answer
     +-- OwnershipConflict (ValueError)   two plugins set the same thing in a container
     +-- ConflictError               the answers of plugins do not go together
     +-- SpecError (ValueError)      an adjustment cannot be applied to an OCI specification
     +-- ValidationRejected          a validator refused what the plugins have set
     +-- StartError                  start() failed; ``phase`` tells how far it got
          +-- StartTimeout (TimeoutError)

Failures of a single RPC are not here: they are ``grpc.RpcError``, with a ``grpc.StatusCode``.
"""

from __future__ import annotations

__all__ = [
    "AlreadyStarted",
    "ConflictError",
    "ConnectionLost",
    "IdentityError",
    "LifecycleError",
    "LocalProtocolError",
    "NRIError",
    "NotConnected",
    "OwnershipConflict",
    "PluginError",
    "ProtocolError",
    "RemoteProtocolError",
    "SpecError",
    "StartError",
    "StartTimeout",
    "StubStopped",
    "ValidationRejected",
    "WouldDeadlock",
]


class NRIError(Exception):
    """Base of all exceptions that nri_sync defines."""


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


class LifecycleError(NRIError):
    """The stub's state does not allow this call."""


class AlreadyStarted(LifecycleError):
    """``start()`` was called while a session is starting, up, or ending."""


class StubStopped(LifecycleError):
    """``start()`` was ended by a ``stop()`` from elsewhere."""


class NotConnected(LifecycleError):
    """The call needs a session with the runtime, and there is none."""


class WouldDeadlock(LifecycleError):
    """The runtime cannot answer this call before the handler that makes it has returned."""


class StartError(NRIError):
    """``start()`` failed and released everything; the stub can be started again.

    ``phase`` is the step that failed: ``"dial"``, ``"register"`` or ``"configure"``. The reason, where
    it was an exception, is ``__cause__``.
    """

    def __init__(self, message: str, *, phase: str) -> None:
        super().__init__(message)
        self.phase = phase


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
