"""One plugin's claims in a request: what it sets in one container it claims here first."""

from __future__ import annotations

from nri_sync.api import Field, Owners
from nri_sync.errors import ConflictError, OwnershipConflict
from nri_sync.logger import get_logger
from nri_sync.runtime.quoting import go_quote

__all__ = ["OwnershipClaims", "logger"]

logger = get_logger("nri_sync.runtime")


class OwnershipClaims:
    """Claims of one plugin on the parts of one container.

    Not locked, like the owners that it writes to.
    """

    __slots__ = ("_owners", "container_id", "plugin")

    def __init__(self, owners: Owners, plugin: str, container_id: str) -> None:
        self._owners = owners
        #: The full name, ``NN-name``.
        self.plugin = plugin
        self.container_id = container_id

    def claim(self, field: int, key: str | None = None) -> None:
        """Become the owner. Raises ConflictError, with the reference's text, if that cannot be."""
        try:
            self._owners.claim(self.container_id, field, self.plugin, key)
        except OwnershipConflict as conflict:
            # Without a key the reference's text ends with a space.
            raise ConflictError(
                f"plugins {go_quote(self.plugin)} and {go_quote(conflict.other)} both tried to set"
                f" {Field.Name(field)} {key or ''}",
                plugin=self.plugin,
            ) from conflict

    def clear(self, field: int, key: str | None = None) -> None:
        """Take a field or an entry from whoever owns it."""
        self._owners.clear(self.container_id, field, self.plugin, key)

    def clear_rdt(self) -> None:
        self._owners.clear_rdt(self.container_id, self.plugin)

    def warn_lost(self, what: str, why: str) -> None:
        """Log that something the plugin has asked for gets lost, as it does in the reference."""
        logger.warning(
            "plugin %s, container %s: %s is lost: %s", self.plugin, self.container_id, what, why
        )
