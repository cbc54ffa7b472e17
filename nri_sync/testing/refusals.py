"""Rejects requests of plugins that no runtime can fulfil."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from nri_sync.api import ContainerUpdate, impossible
from nri_sync.errors import SpecError
from nri_sync.logger import get_logger

if TYPE_CHECKING:
    from nri_sync.testing.result import Answer

__all__ = ["possible", "refuse_adjustments", "refuse_updates"]

# The logger of the runtime side: a simulation reports its warnings.
logger = get_logger("nri_sync.runtime.updates")


def refuse_adjustments(answers: Iterable[Answer]) -> None:
    """Raise SpecError, with the name of the plugin, if a runtime could not create the container."""
    for answer in answers:
        problems = [] if answer.adjustment is None else impossible(answer.adjustment)
        if problems:
            raise SpecError(
                f"plugin {answer.plugin} requests an impossible change: {'; '.join(problems)}"
            )


def refuse_updates(updates: Iterable[ContainerUpdate]) -> None:
    """Raise SpecError if a runtime could not apply an update that does not ignore its failure."""
    for update in updates:
        problems = [] if update.ignore_failure else impossible(update)
        if problems:
            raise SpecError(_text(update, problems))


def possible(updates: Iterable[ContainerUpdate]) -> Iterator[ContainerUpdate]:
    """The updates that a runtime can apply. Logs a warning for each other one."""
    for update in updates:
        problems = impossible(update)
        if problems:
            logger.warning("%s", _text(update, problems))
        else:
            yield update


def _text(update: ContainerUpdate, problems: Iterable[str]) -> str:
    return (
        f"the update of container {update.container_id!r} requests an impossible change: "
        f"{'; '.join(problems)}"
    )
