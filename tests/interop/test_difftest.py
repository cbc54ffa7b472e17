"""Merging, validation and OCI specifications have the results of the Go implementation, in random cases.

A number determines a case, so that a failure can be repeated. ``NRI_SYNC_DIFFTEST_CASES=20000`` runs more cases.
If the Go implementation leaves a result to chance, some of many runs must have our result.
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
# The number of runs of a case that show all results that Go can have.
RUNS = 10

pytestmark = pytest.mark.timeout(60 + CASES // 50)


@pytest.fixture(scope="module")
def go() -> Iterator[Peer]:
    with Peer("difftest") as peer:
        yield peer


@pytest.fixture(autouse=True)
def no_warnings(caplog: pytest.LogCaptureFixture) -> None:
    """Disable the thousands of warnings about lost settings."""
    caplog.set_level(logging.ERROR, logger="nri_sync.runtime")


def batches() -> Iterator[range]:
    for start in range(0, CASES, BATCH):
        yield range(start, min(start + BATCH, CASES))


def by_chance(go: Peer, case: Case, mine: Outcome) -> bool:
    """Whether some of many runs of Go have our outcome."""
    runs = (go.call("merge", cases=[case.wire()] * BATCH) for _ in range(RUNS))
    return any(theirs(case, result) == mine for results in runs for result in results)


class Tally:
    """The content of the cases, so that a change of the generator cannot empty the comparison."""

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
    # All fields that a plugin can set have been compared, and all of them have caused conflicts.
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
    """Our result, with the specification decoded and encoded by Go."""
    if mine.spec is None:
        return mine
    (spec,) = go.call("respec", cases=[mine.spec])
    return mine._replace(spec=plain(spec))
