"""Resources, for plugins and for specifications."""

from __future__ import annotations

import pytest

from nri_sync.testing.manifests.cri import Resources

__all__: list[str] = []

ALL = Resources(
    shares=512, quota=50_000, period=100_000, memory_limit=1 << 30, swap_limit=2 << 30,
    oom_score_adj=900, huge_pages={"2MB": 4 << 20}, unified={"memory.oom.group": "1"},
)  # fmt: skip


def test_of_a_pod_everything_is_set() -> None:
    message = ALL.message()
    assert (message.cpu.shares.value, message.cpu.quota.value) == (512, 50_000)
    assert (message.cpu.period.value, message.memory.limit.value) == (100_000, 1 << 30)
    assert [(item.page_size, item.limit) for item in message.hugepage_limits] == [("2MB", 4 << 20)]
    assert dict(message.unified) == {"memory.oom.group": "1"}


def test_of_a_pod_0_is_0() -> None:
    message = Resources().message()
    for part, name in [(message.cpu, "shares"), (message.cpu, "quota"), (message.cpu, "period")]:
        assert part.HasField(name)
        assert getattr(part, name).value == 0
    assert message.memory.HasField("limit")
    assert message.memory.limit.value == 0


def test_in_a_specification() -> None:
    assert ALL.oci(swap_limits=True) == {
        "memory": {"limit": 1 << 30, "swap": 2 << 30},
        "cpu": {"shares": 512, "quota": 50_000, "period": 100_000},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}],
        "unified": {"memory.oom.group": "1"},
    }


@pytest.mark.parametrize(
    ("swap_limits", "memory"), [(True, {"limit": 5, "swap": 5}), (False, {"limit": 5})]
)
def test_memory_is_not_swapped(swap_limits: bool, memory: dict[str, int]) -> None:
    assert Resources(memory_limit=5).oci(swap_limits) == {"memory": memory, "cpu": {}}


def test_in_a_specification_0_is_not_set() -> None:
    assert Resources().oci(True) == {"memory": {}, "cpu": {}}
