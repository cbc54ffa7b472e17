"""Merging, validation and OCI specifications come out as with the reference, case by random case.

A case is made from its number, so that a failure can be repeated. ``NRI_SYNC_DIFFTEST_CASES=20000`` runs more of
them. Where the reference leaves something to chance, it has to come to our result in some of many runs.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from nri_sync.api import ContainerAdjustment, CreateContainerResponse, Field, strip
from tests.interop.gopeer import Peer
from tests.interop.makers import all_leaves, leaves
from tests.interop.merging import Case, Outcome, merge_case, ours, theirs
from tests.interop.specs import Generated, forgive, generate_case, generated, plain

__all__: list[str] = []

CASES = int(os.environ.get("NRI_SYNC_DIFFTEST_CASES", "3000"))
BATCH = 100
# How many batches of one case show all that Go can make of it.
RUNS = 10

pytestmark = pytest.mark.timeout(60 + CASES // 50)


@pytest.fixture(scope="module")
def go() -> Iterator[Peer]:
    with Peer("difftest") as peer:
        yield peer


@pytest.fixture(autouse=True)
def no_warnings(caplog: pytest.LogCaptureFixture) -> None:
    """There are thousands, of what gets lost."""
    caplog.set_level(logging.ERROR, logger="nri_sync.runtime")


def batches() -> Iterator[range]:
    for start in range(0, CASES, BATCH):
        yield range(start, min(start + BATCH, CASES))


def by_chance(go: Peer, case: Case, mine: Outcome) -> bool:
    """Whether Go comes to our outcome in some of many runs."""
    runs = (go.call("merge", cases=[case.wire()] * BATCH) for _ in range(RUNS))
    return any(theirs(case, result) == mine for results in runs for result in results)


class Tally:
    """What the cases have had in them, so that a change of them cannot empty the comparison."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.set: set[str] = set()
        self.conflicts: set[str] = set()

    def add(self, case: Case, outcome: Outcome) -> None:
        error = outcome.error
        if " both tried to set " in error:
            self.outcomes["conflict"] += 1
            self.conflicts.add(error.partition(" both tried to set ")[2].split(" ")[0])
        else:
            self.outcomes[error.partition(" ")[0] or "merged"] += 1
        if isinstance(outcome.response, CreateContainerResponse):
            adjust = ContainerAdjustment()
            adjust.CopyFrom(outcome.response.adjust)
            strip(adjust)
            self.set |= leaves(adjust)


def test_merging_and_validation(go: Peer) -> None:
    tally = Tally()
    for numbers in batches():
        cases = [merge_case(number) for number in numbers]
        results = go.call("merge", cases=[case.wire() for case in cases])
        for number, case, result in zip(numbers, cases, results):
            mine, other = ours(case), theirs(case, result)
            tally.add(case, mine)
            if mine != other and not by_chance(go, case, mine):
                pytest.fail(f"merge_case({number}):\n{mine.differs(other)}")
    print(f"{CASES} cases: {dict(tally.outcomes)}")
    # All of what a plugin can set has come through, and all of it has been contended for.
    assert tally.set == all_leaves(ContainerAdjustment.DESCRIPTOR)
    assert tally.conflicts == set(Field.keys()) - {"None", "OciHooks"}
    assert tally.outcomes.keys() == {"merged", "conflict", "plugin", "validator"}
    assert min(tally.outcomes.values()) > CASES // 50


def test_oci_specifications(go: Peer) -> None:
    outcomes: Counter[str] = Counter()
    for numbers in batches():
        cases = [generate_case(number) for number in numbers]
        results = go.call("generate", cases=[case.wire() for case in cases])
        for number, case, result in zip(numbers, cases, results):
            if result["panic"]:
                outcomes["crash in Go"] += 1
                generated(case)
                case = case.completed()
                (result,) = go.call("generate", cases=[case.wire()])
            other = in_go(result)
            mine = forgive(case, as_go_writes(go, generated(case)), other)
            outcomes["error" if mine.error else "applied"] += 1
            if mine != other:
                pytest.fail(f"generate_case({number}):\n{mine}\n{other}")
    print(f"{CASES} cases: {dict(outcomes)}")
    assert outcomes.keys() == {"crash in Go", "error", "applied"}
    assert min(outcomes.values()) > CASES // 50


def in_go(result: dict[str, Any]) -> Generated:
    assert not result["panic"], result["panic"]
    return Generated(
        result["error"], plain(result["spec"]), plain(result["cdi"]), plain(result["checked"])
    )


def as_go_writes(go: Peer, mine: Generated) -> Generated:
    """Our result with a specification that has been through Go's decoder and encoder."""
    if mine.spec is None:
        return mine
    (spec,) = go.call("respec", cases=[mine.spec])
    return mine._replace(spec=plain(spec))
