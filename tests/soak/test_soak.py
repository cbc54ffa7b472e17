"""Some seconds of the soak with our own runtime; and a check that the soak notices violated invariants."""

from __future__ import annotations

import secrets
from contextlib import ExitStack
from pathlib import Path

import pytest

from nri_sync import Stub
from nri_sync.testing import FAULT_KINDS
from tests.soak.figures import Sample, table
from tests.soak.harness import GROWTH, Soak, Violation, check_memory, soaking

__all__: list[str] = []


def soak_shortly(soak: Soak, each: int = 2) -> None:
    """Inject ``each`` faults of each kind."""
    soak.run(FAULT_KINDS, lambda faults: faults < each * len(FAULT_KINDS), block=each)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("each", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_each_kind_of_fault(socket_dir: Path, each: int) -> None:
    seed = secrets.randbits(32)
    print("seed", seed)
    with soaking("ours", socket_dir, seed) as soak:
        soak_shortly(soak, each)
        print(*table(soak.figures), sep="\n")
    figures = soak.figures
    assert soak.refusals == []
    assert [figures[kind].faults for kind in FAULT_KINDS] == [each] * len(FAULT_KINDS)
    # On a busy machine, the soak cuts a connection before the fault strikes.
    assert sum(row.struck for row in figures.values()) >= len(FAULT_KINDS) * each / 4
    for row in figures.values():
        assert row.not_started + row.lost + row.stopped == row.faults


@pytest.mark.timeout(300)
def test_a_second_on_close_is_noticed(socket_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_close = Soak.on_close

    def twice(self: Soak, stub: Stub) -> None:
        self._closes += 1
        on_close(self, stub)

    monkeypatch.setattr(Soak, "on_close", twice)
    with soaking("ours", socket_dir, 1) as soak, pytest.raises(Violation, match="on_close"):
        soak_shortly(soak)


@pytest.mark.timeout(300)
def test_a_descriptor_left_behind_is_noticed(
    socket_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with soaking("ours", socket_dir, 1) as soak:
        soak.run(["delay"], lambda faults: faults < 1, block=1)
        monkeypatch.setattr("tests.soak.harness.SLACK", 1.0)
        with ExitStack() as stack:
            # More threads than a session has: some of a session may run at the first sample.
            for _ in range(20):
                stack.enter_context(open("/dev/null"))
            with pytest.raises(Violation, match="left behind"):
                soak.run(["delay"], lambda faults: faults < 2, block=1)


@pytest.mark.timeout(300)
def test_a_plugin_that_is_not_served_is_noticed(socket_dir: Path) -> None:
    with soaking("ours", socket_dir, 1) as soak:
        soak.other_stub.stop()
        with pytest.raises(Violation, match="the other plugin"):
            soak.expect_other()


@pytest.mark.parametrize("field", ["resident", "other"])
def test_memory_that_grows_is_noticed(field: str) -> None:
    def samples(growth: int) -> list[Sample]:
        level = Sample(at=0.0, faults=0, threads=1, descriptors=1, resident=1 << 25, other=0)
        return [
            level._replace(faults=n * 50, **{field: getattr(level, field) + n * growth})
            for n in range(100)
        ]

    check_memory(samples(0))
    check_memory(samples(GROWTH // 100))
    with pytest.raises(Violation, match=rf"memory \({field}\)"):
        check_memory(samples(GROWTH // 20))
