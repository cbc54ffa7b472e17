"""The owners of fields: the plugins that have set them, by container.

A runtime records the owners while it sends a request to one plugin after the other, so that two plugins cannot set
the same field. Validators read the owners. ``Owners`` reads and writes the OwningPlugins message. It is not
thread-safe.

A field of the api.Field enum has either one owner, or one owner for each entry. A key identifies an entry: an
annotation key, a mount destination, and so on. Hooks are the exception: several plugins can add hooks, and all of
them are owners.
"""

from __future__ import annotations

from typing import Any, cast

from nri_sync.api import _check, removal
from nri_sync.api.nri_pb2 import Field, FieldOwners, OwningPlugins
from nri_sync.errors import OwnershipConflict

__all__ = ["COMPOUND_FIELDS", "Owners"]

#: The fields with an owner for each entry.
COMPOUND_FIELDS = frozenset(
    {
        Field.Annotations,
        Field.Mounts,
        Field.Devices,
        Field.CdiDevices,
        Field.Env,
        Field.HugepageLimits,
        Field.CgroupsUnified,
        Field.Rlimits,
        Field.Namespace,
        Field.Sysctl,
        Field.LinuxNetDevices,
    }
)
_FIELDS = frozenset(Field.values()) - {0}
# Constants, because a lookup of a name in an enum takes longer than the rest of a claim.
_HOOKS = Field.OciHooks
_RDT = (Field.RdtClosID, Field.RdtSchemata, Field.RdtEnableMonitoring)


class Owners:
    """The owners of fields, by container id.

    Methods take the number of a Field. They require a ``key`` if the field has an owner for each entry, and no key
    otherwise; they raise ValueError if this is violated. Plugins are full names, ``NN-name``.
    """

    def __init__(self, message: OwningPlugins | None = None) -> None:
        #: The message that is read and written. Other code must not remove entries from it.
        self.message = OwningPlugins() if message is None else message
        # A cache, because finding a map in the message takes longer than a claim: by container and field, the
        # written map with the owner or owners.
        self._found: dict[tuple[str, int], Any] = {}

    def owner(self, container_id: str, field: int, key: str | None = None) -> str | None:
        """The owner of a field or an entry; None without an owner.

        ``"-NN-name"`` is a plugin that has cleared the field, and may still set it. Hooks can have several owners,
        separated by commas.
        """
        found = self._found.get((container_id, field))
        if found is not None and (key is None) == (field not in COMPOUND_FIELDS):
            owner: str | None = found.get(field if key is None else key)
            return owner
        _check_field(field, key)
        if container_id not in self.message.owners:
            return None
        owners = self.message.owners[container_id]
        if key is None:
            return owners.simple.get(field)
        if field not in owners.compound:
            return None
        entries = owners.compound[field].owners
        return entries.get(key)

    def entries(self, container_id: str, field: int) -> dict[str, str]:
        """The owners of all entries of a field, by key."""
        _check_field(field, "")
        if container_id not in self.message.owners:
            return {}
        compound = self.message.owners[container_id].compound
        return dict(compound[field].owners) if field in compound else {}

    def conflict(
        self, container_id: str, field: int, plugin: str, key: str | None = None
    ) -> OwnershipConflict | None:
        """The error that a claim would raise, or None. Hooks never conflict."""
        other = self.owner(container_id, field, key)
        if other is None or field == _HOOKS:
            return None
        other, cleared = removal.unmark(other)
        if cleared and other == plugin:
            return None
        # A second claim of the same plugin is also a conflict, because it would lose the first value.
        what = f"{_field_name(field)} {key!r}" if key is not None else _field_name(field)
        return OwnershipConflict(
            f"plugins {plugin!r} and {other!r} both tried to set {what} of container"
            f" {container_id!r}",
            plugin=plugin,
            other=other,
            field=field,
            key=key,
        )

    def claim(self, container_id: str, field: int, plugin: str, key: str | None = None) -> None:
        """Make a plugin the owner, or for hooks an additional owner.

        Raises OwnershipConflict, and changes nothing, if a plugin (also the same one) is the owner already, or if
        another plugin has cleared the field.
        """
        conflict = self.conflict(container_id, field, plugin, key)
        if conflict is not None:
            raise conflict
        if field == _HOOKS:
            owners = self.owner(container_id, field)
            plugin = plugin if owners is None else f"{owners},{plugin}"
        self._set(container_id, field, plugin, key)

    def clear(self, container_id: str, field: int, plugin: str, key: str | None = None) -> None:
        """Record that a plugin clears a field or an entry of any owner.

        After that, only this plugin may set it.
        """
        _check_field(field, key)
        self._set(container_id, field, removal.mark(plugin), key)

    def clear_rdt(self, container_id: str, plugin: str) -> None:
        """Record that a plugin clears all fields of cache and memory bandwidth control."""
        for field in _RDT:
            self.clear(container_id, field, plugin)

    def _set(self, container_id: str, field: int, owner: str, key: str | None) -> None:
        found = self._found.get((container_id, field))
        if found is None:
            owners: FieldOwners = self.message.owners[container_id]
            found = cast(Any, owners.simple if key is None else owners.compound[field].owners)
            self._found[container_id, field] = found
        found[field if key is None else key] = owner


def _check_field(field: int, key: str | None) -> None:
    if (field in COMPOUND_FIELDS) != (key is not None):
        name = _field_name(field)
        if key is None:
            raise ValueError(f"{name} has an owner for each entry, so it needs a key")
        raise ValueError(f"{name} has one owner, so it takes no key, and not {_check.show(key)}")
    if field not in _FIELDS:
        raise ValueError(f"{field} is not the number of a Field")


def _field_name(field: int) -> str:
    return Field.Name(field) if field in _FIELDS else str(field)
