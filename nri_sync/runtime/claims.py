"""Ownership claims of one plugin on the fields of one container, during one request."""

from __future__ import annotations

from nri_sync.api import Field, Owners
from nri_sync.errors import ConflictError, OwnershipConflict
from nri_sync.logger import get_logger
from nri_sync.runtime.quoting import go_quote

__all__ = ["OwnershipClaims", "logger"]

logger = get_logger("nri_sync.runtime")


class OwnershipClaims:
    """Claims fields of one container for one plugin, before the merge sets them.

    Not thread-safe, as the :class:`Owners` that it writes to.
    """

    __slots__ = ("_owners", "container_id", "plugin")

    def __init__(self, owners: Owners, plugin: str, container_id: str) -> None:
        self._owners = owners
        #: The full name, ``NN-name``.
        self.plugin = plugin
        self.container_id = container_id

    def claim(self, field: int, key: str | None = None) -> None:
        """Make the plugin the owner of a field or an entry.

        Raises ConflictError, with the reference's text, if another plugin is the owner.
        """
        try:
            self._owners.claim(self.container_id, field, self.plugin, key)
        except OwnershipConflict as conflict:
            # Without a key the text of the reference ends with a space.
            raise ConflictError(
                f"plugins {go_quote(self.plugin)} and {go_quote(conflict.other)} both tried to set"
                f" {Field.Name(field)} {key or ''}",
                plugin=self.plugin,
            ) from conflict

    def clear(self, field: int, key: str | None = None) -> None:
        """Take a field or an entry away from its owner."""
        self._owners.clear(self.container_id, field, self.plugin, key)

    def clear_rdt(self) -> None:
        self._owners.clear_rdt(self.container_id, self.plugin)

    def warn_lost(self, change: str, reason: str) -> None:
        """Log that the merge loses a change that the plugin requested, as the reference does."""
        logger.warning(
            "plugin %s, container %s: %s is lost: %s",
            self.plugin, self.container_id, change, reason,
        )  # fmt: skip
