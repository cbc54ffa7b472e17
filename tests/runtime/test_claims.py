"""Ownership claims of a plugin, and the texts of conflicts, which are the reference's."""

from __future__ import annotations

import pytest

from nri_sync.api import Field, Owners
from nri_sync.errors import ConflictError, OwnershipConflict
from nri_sync.runtime.claims import OwnershipClaims

__all__: list[str] = []


def test_a_claim_is_noted() -> None:
    owners = Owners()
    OwnershipClaims(owners, "10-a", "c0").claim(Field.Env, "HOME")
    assert owners.owner("c0", Field.Env, "HOME") == "10-a"


@pytest.mark.parametrize(
    # Without a key the text ends with a space.
    ("field", "key", "what"),
    [(Field.Args, None, "Args "), (Field.Env, "HOME", "Env HOME")],
)
def test_a_conflict_reads_as_in_the_reference(field: int, key: str | None, what: str) -> None:
    owners = Owners()
    OwnershipClaims(owners, "10-a", "c0").claim(field, key)
    with pytest.raises(ConflictError) as error:
        OwnershipClaims(owners, "20-b", "c0").claim(field, key)
    assert str(error.value) == f'plugins "20-b" and "10-a" both tried to set {what}'
    assert error.value.plugin == "20-b"
    assert isinstance(error.value.__cause__, OwnershipConflict)


def test_a_cleared_field_is_for_the_plugin_alone() -> None:
    owners = Owners()
    OwnershipClaims(owners, "10-a", "c0").claim(Field.Args)
    second = OwnershipClaims(owners, "20-b", "c0")
    second.clear(Field.Args)
    second.claim(Field.Args)
    assert owners.owner("c0", Field.Args) == "20-b"
    second.clear_rdt()
    assert owners.owner("c0", Field.RdtSchemata) == "-20-b"


def test_a_loss_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    OwnershipClaims(Owners(), "10-a", "c0").warn_lost("the thing", "of the weather")
    assert caplog.messages == ["plugin 10-a, container c0: the thing is lost: of the weather"]
    assert caplog.records[0].name == "nri_sync.runtime"
    assert caplog.records[0].levelname == "WARNING"
