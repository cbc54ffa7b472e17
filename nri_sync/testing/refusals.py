"""Refuse the requests of plugins that no runtime can carry out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from nri_sync.api import ContainerUpdate, impossible
from nri_sync.errors import SpecError
from nri_sync.logger import get_logger

if TYPE_CHECKING:
    from nri_sync.testing.result import Answer

__all__ = ["possible", "refuse_adjustments", "refuse_updates"]

# Of the runtime side, whose warnings are in the report of a simulation.
logger = get_logger("nri_sync.runtime.updates")


def refuse_adjustments(answers: Iterable[Answer]) -> None:
    """Raises SpecError, which names the plugin, when a runtime could not make the container."""
    for answer in answers:
        problems = [] if answer.adjustment is None else impossible(answer.adjustment)
        if problems:
            raise SpecError(
                f"plugin {answer.plugin} wants what no runtime can do: {'; '.join(problems)}"
            )


def refuse_updates(updates: Iterable[ContainerUpdate]) -> None:
    """Raises SpecError when an update, whose failure is not to be ignored, could not be applied."""
    for update in updates:
        problems = [] if update.ignore_failure else impossible(update)
        if problems:
            raise SpecError(_text(update, problems))


def possible(updates: Iterable[ContainerUpdate]) -> Iterator[ContainerUpdate]:
    """The updates that can be applied; a warning is logged for each of the others."""
    for update in updates:
        problems = impossible(update)
        if problems:
            logger.warning("%s", _text(update, problems))
        else:
            yield update


def _text(update: ContainerUpdate, problems: Iterable[str]) -> str:
    return (
        f"an update of container {update.container_id!r} wants what no runtime can do: "
        f"{'; '.join(problems)}"
    )
