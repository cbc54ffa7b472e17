from __future__ import annotations

import pytest

from nri_sync.api import COMPOUND_FIELDS, Field, Owners, OwningPlugins
from nri_sync.errors import NRIError, OwnershipConflict

__all__: list[str] = []

SIMPLE = sorted(set(Field.values()) - COMPOUND_FIELDS - {0, Field.OciHooks})


def test_the_fields() -> None:
    assert len(COMPOUND_FIELDS) == 11
    assert len(SIMPLE) == 28


@pytest.mark.parametrize(
    ("field", "key"),
    [*((field, None) for field in SIMPLE), *((field, "k") for field in sorted(COMPOUND_FIELDS))],
)
def test_claim_conflict_and_clear(field: int, key: str | None) -> None:
    owners = Owners()
    assert owners.owner("c", field, key) is None
    assert owners.message == OwningPlugins(), "asking must not change it"
    owners.claim("c", field, "10-a", key)
    assert owners.owner("c", field, key) == "10-a"
    assert owners.owner("d", field, key) is None
    owners.claim("d", field, "20-b", key)
    # A second claim of the same plugin also conflicts.
    for plugin in ("20-b", "10-a"):
        conflict = owners.conflict("c", field, plugin, key)
        assert conflict is not None
        assert (conflict.plugin, conflict.other) == (plugin, "10-a")
        with pytest.raises(OwnershipConflict):
            owners.claim("c", field, plugin, key)
    owners.clear("c", field, "20-b", key)
    assert owners.owner("c", field, key) == "-20-b"
    with pytest.raises(OwnershipConflict, match="'10-a' and '20-b'"):
        owners.claim("c", field, "10-a", key)
    owners.claim("c", field, "20-b", key)
    assert owners.owner("c", field, key) == "20-b"
    assert owners.owner("d", field, key) == "20-b"


def test_the_attributes_of_a_conflict() -> None:
    owners = Owners()
    owners.claim("c", Field.Env, "10-a", "PATH")
    with pytest.raises(OwnershipConflict) as error:
        owners.claim("c", Field.Env, "20-b", "PATH")
    assert (error.value.field, error.value.key) == (Field.Env, "PATH")
    assert str(error.value) == (
        "plugins '20-b' and '10-a' both tried to set Env 'PATH' of container 'c'"
    )
    assert isinstance(error.value, NRIError)
    assert owners.entries("c", Field.Env) == {"PATH": "10-a"}


def test_entries() -> None:
    owners = Owners()
    assert owners.entries("c", Field.Namespace) == {}
    owners.claim("c", Field.MemLimit, "10-a")
    assert owners.entries("c", Field.Namespace) == {}
    owners.claim("c", Field.Namespace, "10-a", "pid")
    owners.clear("c", Field.Namespace, "20-b", "ipc")
    assert owners.entries("c", Field.Namespace) == {"pid": "10-a", "ipc": "-20-b"}
    assert owners.owner("c", Field.Namespace, "uts") is None


def test_hooks_never_conflict() -> None:
    owners = Owners()
    owners.claim("c", Field.OciHooks, "10-a")
    owners.claim("c", Field.OciHooks, "20-b")
    assert owners.conflict("c", Field.OciHooks, "10-a") is None
    assert owners.owner("c", Field.OciHooks) == "10-a,20-b"
    owners.clear("c", Field.OciHooks, "30-c")
    owners.claim("c", Field.OciHooks, "40-d")
    assert owners.owner("c", Field.OciHooks) == "-30-c,40-d"


def test_rdt_is_cleared_at_once() -> None:
    owners = Owners()
    owners.claim("c", Field.RdtClosID, "10-a")
    owners.clear_rdt("c", "20-b")
    for field in (Field.RdtClosID, Field.RdtSchemata, Field.RdtEnableMonitoring):
        assert owners.owner("c", field) == "-20-b"


@pytest.mark.parametrize("field", sorted(COMPOUND_FIELDS))
def test_a_key_is_needed(field: int) -> None:
    for call in (Owners().claim, Owners().clear):
        with pytest.raises(ValueError, match="an owner for each entry, so it needs a key"):
            call("c", field, "10-a")
    with pytest.raises(ValueError, match="an owner for each entry, so it needs a key"):
        Owners().owner("c", field)


@pytest.mark.parametrize("field", [*SIMPLE, Field.OciHooks])
def test_a_key_for_a_field_without_keys_is_refused(field: int) -> None:
    with pytest.raises(ValueError, match="so it takes no key, and not 'k'"):
        Owners().claim("c", field, "10-a", "k")
    with pytest.raises(ValueError, match="takes no key"):
        Owners().entries("c", field)


@pytest.mark.parametrize("field", [0, 41, -1])
def test_no_field(field: int) -> None:
    with pytest.raises(ValueError, match=f"^{field} is not the number of a Field"):
        Owners().claim("c", field, "10-a")


def test_an_empty_key_is_a_key() -> None:
    owners = Owners()
    owners.claim("c", Field.Env, "10-a", "")
    assert owners.owner("c", Field.Env, "") == "10-a"


def test_a_message_that_came_in() -> None:
    owners = Owners()
    owners.claim("c", Field.Args, "10-a")
    owners.claim("c", Field.Env, "10-a", "PATH")
    message = OwningPlugins.FromString(owners.message.SerializeToString())
    received = Owners(message)
    assert received.message is message
    assert received.owner("c", Field.Args) == "10-a"
    assert received.owner("c", Field.Env, "PATH") == "10-a"
