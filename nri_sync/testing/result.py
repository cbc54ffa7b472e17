"""The adjustments of plugins in a form for assertions: dicts of texts and messages, by key."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from nri_sync import api
from nri_sync.api import Owners, removal
from nri_sync.api.handlers import HANDLERS
from nri_sync.api.nri_pb2 import (
    Container,
    ContainerAdjustment,
    ContainerUpdate,
    CreateContainerRequest,
    CreateContainerResponse,
    LinuxDevice,
    LinuxResources,
    Mount,
    PodSandbox,
    POSIXRlimit,
)
from nri_sync.api.plugin import CreateResult as Answered
from nri_sync.errors import ConflictError, NRIError, SpecError, ValidationRejected
from nri_sync.runtime.oci import adjust_spec
from nri_sync.runtime.result import CreateResult
from nri_sync.testing.removals import NoEffectWarning, ineffective_removals

__all__ = ["Answer", "Changes", "Result", "merge"]

_V = TypeVar("_V")

[_CREATE] = [handler for handler in HANDLERS if handler.name == "create_container"]


class Changes:
    """The changes of a new container: ``changes.env == {"NAME": "value"}``, and so on.

    The constructor takes the answer of a ``create_container`` handler, and does not change it. In each dict, the
    value of a removed entry is None.
    """

    def __init__(self, answered: Answered = None) -> None:
        """Raises TypeError for a value that ``create_container`` may not return."""
        response: CreateContainerResponse = _CREATE.reply(answered)
        #: The whole adjustment, without empty messages.
        self.adjustment = ContainerAdjustment()
        self.adjustment.CopyFrom(response.adjust)
        api.strip(self.adjustment)
        #: The updates of other containers, or of this one, if it exists.
        self.updates: list[ContainerUpdate] = list(response.update)

    @property
    def annotations(self) -> dict[str, str | None]:
        return _marked(self.adjustment.annotations.items())

    @property
    def env(self) -> dict[str, str | None]:
        return _marked((entry.key, entry.value) for entry in self.adjustment.env)

    @property
    def mounts(self) -> dict[str, Mount | None]:
        """By destination."""
        return _marked((mount.destination, mount) for mount in self.adjustment.mounts)

    @property
    def devices(self) -> dict[str, LinuxDevice | None]:
        """By path in the container."""
        return _marked((device.path, device) for device in self.adjustment.linux.devices)

    @property
    def cdi_devices(self) -> list[str]:
        return [device.name for device in self.adjustment.CDI_devices]

    @property
    def args(self) -> list[str]:
        """The new command line, empty if it does not change."""
        args = list(self.adjustment.args)
        # A leading empty argument is a mark: the adjustment may replace the arguments of another plugin.
        return args[1:] if args[:1] == [""] else args

    @property
    def rlimits(self) -> dict[str, POSIXRlimit]:
        """By type, such as ``RLIMIT_NOFILE``."""
        return {limit.type: limit for limit in self.adjustment.rlimits}

    @property
    def namespaces(self) -> dict[str, str | None]:
        """Paths by type."""
        return _marked((item.type, item.path) for item in self.adjustment.linux.namespaces)

    @property
    def sysctl(self) -> dict[str, str | None]:
        return _marked(self.adjustment.linux.sysctl.items())

    @property
    def resources(self) -> LinuxResources:
        return self.adjustment.linux.resources

    @property
    def empty(self) -> bool:
        """Whether the answer changes neither this container nor another."""
        return not self.adjustment.ListFields() and not self.updates

    def apply(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """An OCI runtime specification with the adjustment applied, in the form that a runtime passes to runc.

        ``spec`` is a config.json, in the form of ``json.loads``; the method does not change it. A removal without
        an effect is a :class:`NoEffectWarning`.

        Raises:
            ConflictError: the adjustment sets a field twice.
            SpecError: the adjustment cannot be applied, or requests an impossible change.
        """
        problems = api.impossible(self.adjustment)
        if problems:
            raise SpecError(f"the adjustment requests an impossible change: {'; '.join(problems)}")
        # A runtime merges all answers first, even a single one.
        alone = CreateResult(CreateContainerRequest(container=Container()))
        alone.apply("under test", CreateContainerResponse(adjust=self.adjustment))
        merged = alone.reply.adjust
        api.strip(merged)
        made = adjust_spec(spec, merged)
        for text in ineffective_removals([("under test", self.adjustment)], made):
            warnings.warn(text, NoEffectWarning, stacklevel=2)
        return made

    def __repr__(self) -> str:
        updated = [update.container_id for update in self.updates]
        return f"<{type(self).__name__}: {_text(self.adjustment)}; updates of {updated}>"


class Answer(NamedTuple):
    """The answer of one plugin to one event."""

    #: The full name, ``NN-name``.
    plugin: str
    #: The RPC, such as ``"CreateContainer"``.
    event: str
    #: The time until the answer.
    seconds: float
    #: The reason why there is no answer, or the error that is the answer.
    error: Exception | None = None
    #: The requested adjustment of a new container.
    adjustment: ContainerAdjustment | None = None
    #: The numbers of updates and evictions in the answer.
    updates: int = 0
    evictions: int = 0
    #: Paths of the answer's fields that the runtime's NRI release does not know. They have no effect.
    ignored: tuple[str, ...] = ()


class Result(Changes):
    """The outcome of an event: the merged answers of all plugins, or the reason of its failure."""

    def __init__(
        self,
        event: str,
        pod: PodSandbox,
        container: Container | None,
        *,
        reply: CreateContainerResponse | None = None,
        updates: Iterable[ContainerUpdate] = (),
        answers: Sequence[Answer] = (),
        owners: Owners | None = None,
        error: NRIError | None = None,
    ) -> None:
        super().__init__(reply)
        self.updates += updates
        #: The RPC, such as ``"CreateContainer"``.
        self.event = event
        #: The pod after the event, and, for an event of a container, the container after the event.
        self.pod = pod
        self.container = container
        #: The answers of plugins, in order.
        self.answers: tuple[Answer, ...] = tuple(answers)
        #: The owner of each setting of a new container.
        self.owners = Owners() if owners is None else owners
        #: The reason of the failure: RequestFailed, ConflictError, ValidationRejected, ...; None for success.
        self.error = error

    @property
    def rejected(self) -> str | None:
        """The reason of a validator for rejecting the container; None if none has rejected it."""
        return self.error.reason if isinstance(self.error, ValidationRejected) else None

    def owner(self, field: int, key: str | None = None) -> str | None:
        """The plugin that has set a field of the new container, an ``api.Field``.

        A field with entries needs a key: ``result.owner(api.Field.Env, "NAME")``. Raises ValueError for a missing
        key, and for the key of a field without entries.
        """
        return None if self.container is None else self.owners.owner(self.container.id, field, key)

    def __repr__(self) -> str:
        if self.error is not None:
            return f"<Result: {self.event} failed: {self.error}>"
        return super().__repr__()


def merge(
    pod: PodSandbox, container: Container, answers: Iterable[Answer]
) -> tuple[Container, Owners]:
    """The container with the merged answers of plugins, and the owners of its settings.

    Merging stops at the first conflict. The container is a copy; the function changes no argument.
    """
    merged = CreateResult(CreateContainerRequest(pod=pod, container=container))
    for answer in answers:
        if answer.adjustment is not None:
            try:
                merged.apply(answer.plugin, CreateContainerResponse(adjust=answer.adjustment))
            except ConflictError:
                break
    return merged.request.container, merged.owners


def _marked(entries: Iterable[tuple[str, _V]]) -> dict[str, _V | None]:
    """The entries by their unmarked keys; None for a removed one. Setting wins over removing the same key."""
    removed: dict[str, _V | None] = {}
    present: dict[str, _V | None] = {}
    for marked_key, value in entries:
        key, is_removed = removal.unmark(marked_key)
        if is_removed:
            removed[key] = None
        else:
            present[key] = value
    return {**removed, **present}


def _text(message: Any) -> str:
    return " ".join(str(message).split()) or "no adjustment"
