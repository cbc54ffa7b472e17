"""Converts the outcome of an event into the parts of a report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nri_sync.api import Field, removal
from nri_sync.errors import (
    ConflictError,
    NoAnswer,
    NRIError,
    RequestFailed,
    RequestTimeout,
    SpecError,
    ValidationRejected,
)
from nri_sync.testing.manifests import WorkloadContainer
from nri_sync.testing.result import Result
from nri_sync.testing.simulation.diff import compare, creation_owners
from nri_sync.testing.simulation.plugins import Handled
from nri_sync.testing.simulation.report import Call, ContainerReport, Failure, FailureKind

__all__ = ["calls_of", "container_report", "failure_of", "synchronize_call"]


def calls_of(result: Result, handled: Mapping[str, Sequence[Handled]]) -> list[Call]:
    """The answers, each with the matching call of its handler."""
    left = {name: list(entries) for name, entries in handled.items()}
    # The calls may contain a slow handler of an earlier event, so match the container, too. An event of a pod also
    # has calls for the pod's containers.
    about = "" if result.container is None else result.container.id
    calls = []
    for answer in result.answers:
        done = None
        for entry in left.get(answer.plugin, ()):
            if entry.event == answer.event and about in ("", entry.about):
                done = entry
                left[answer.plugin].remove(entry)
                break
        calls.append(
            Call(
                answer.plugin,
                answer.event,
                handler_seconds=None if done is None else done.seconds,
                seconds=answer.seconds,
                adjustment=answer.adjustment,
                updates=answer.updates,
                evictions=answer.evictions,
                error="" if answer.error is None else _text(answer.error),
                traceback="" if done is None else done.traceback,
            )
        )
    return calls


def synchronize_call(plugin: str, item: Handled) -> Call:
    return Call(
        plugin,
        item.event,
        handler_seconds=item.seconds,
        seconds=item.seconds,
        updates=len(item.response.update),
    )


def _text(error: BaseException) -> str:
    details = getattr(error, "details", None)
    return str(details() if callable(details) else error) or type(error).__name__


def failure_of(error: NRIError | None, calls: Iterable[Call]) -> Failure | None:
    if error is None:
        return None
    text = str(error).strip()
    if isinstance(error, ConflictError):
        return Failure(FailureKind.CONFLICT, text, error.plugin)
    if isinstance(error, ValidationRejected):
        return Failure(FailureKind.REJECTED, text, error.validator)
    if isinstance(error, RequestFailed):
        kind = FailureKind.NO_ANSWER if isinstance(error, NoAnswer) else FailureKind.ERROR
        raised = [
            call.traceback
            for call in calls
            if (call.plugin, call.event) == (error.plugin, error.event)
        ]
        return Failure(kind, text, error.plugin, traceback=raised[0] if raised else "")
    if isinstance(error, SpecError):
        return Failure(FailureKind.SPEC, text)
    if isinstance(error, RequestTimeout):
        return Failure(FailureKind.NO_ANSWER, text)
    return Failure(FailureKind.ERROR, text)


def container_report(
    item: WorkloadContainer, result: Result, after: Mapping[str, Any] | None
) -> ContainerReport:
    if after is None:
        return ContainerReport(item.spec, None, ())
    adjustments = [
        (answer.plugin, answer.adjustment)
        for answer in result.answers
        if answer.adjustment is not None
    ]
    id = item.container.id
    owner_of = creation_owners(id, result.owners, adjustments, item.spec, after)
    cdi = {
        device: removal.unmark(result.owner(Field.CdiDevices, device) or "").key
        for device in result.cdi_devices
    }
    return ContainerReport(item.spec, after, compare(item.spec, after, owner_of), cdi)
