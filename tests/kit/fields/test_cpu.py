from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nri_sync.kit.fields.cpu import (
    format_cpus,
    milli_to_quota,
    milli_to_shares,
    parse_cpus,
    quota_to_milli,
    shares_to_milli,
    shares_to_weight,
    weight_to_shares,
)

__all__: list[str] = []


@pytest.mark.parametrize(
    ("milli", "shares"),
    [(0, 2), (1, 2), (2, 2), (3, 3), (100, 102), (250, 256), (1000, 1024), (1500, 1536), (256000, 262144),
     (10**9, 262144)],
)  # fmt: skip
def test_shares_of_a_request(milli: int, shares: int) -> None:
    assert milli_to_shares(milli) == shares


@given(st.integers(2, 256000))
def test_the_request_comes_back(milli: int) -> None:
    assert shares_to_milli(milli_to_shares(milli)) == milli


def test_the_least_shares() -> None:
    assert [shares_to_milli(shares) for shares in (0, 1, 2, 3)] == [0, 0, 2, 3]


@pytest.mark.parametrize(
    ("milli", "quota"), [(0, 0), (1, 1000), (10, 1000), (11, 1100), (500, 50000), (2500, 250000)]
)
def test_quota_of_a_limit(milli: int, quota: int) -> None:
    assert milli_to_quota(milli) == quota


@given(st.integers(10, 10**6), st.sampled_from([100_000, 1_000_000]))
def test_the_limit_comes_back(milli: int, period: int) -> None:
    assert quota_to_milli(milli_to_quota(milli, period), period) == milli


def test_no_limit() -> None:
    assert [quota_to_milli(quota) for quota in (0, -1)] == [0, 0]
    assert quota_to_milli(1000, 0) == 0


@pytest.mark.parametrize(
    ("shares", "weight", "linear"),
    [
        # As github.com/opencontainers/cgroups v0.1.0 and v0.0.2 convert them.
        (0, 0, 0),
        (1, 1, 1),
        (2, 1, 1),
        (3, 2, 1),
        (102, 17, 4),
        (256, 35, 10),
        (512, 59, 20),
        (1024, 100, 39),
        (1536, 138, 59),
        (2048, 174, 79),
        (262144, 10000, 10000),
        (500000, 10000, 10000),
    ],
)
def test_weights(shares: int, weight: int, linear: int) -> None:
    assert shares_to_weight(shares) == weight
    assert shares_to_weight(shares, linear=True) == linear


def test_every_weight_comes_back() -> None:
    for weight in range(10001):
        assert shares_to_weight(weight_to_shares(weight)) == weight
    assert weight_to_shares(100) == 1024
    assert weight_to_shares(20000) == 262144


def test_weights_as_the_kubelet_reads_them() -> None:
    assert [weight_to_shares(w, linear=True) for w in (0, 1, 39, 100, 10000)] == [
        0,
        2,
        998,
        2597,
        262144,
    ]
    for weight in range(1, 10001):
        assert (
            weight - 1
            <= shares_to_weight(weight_to_shares(weight, linear=True), linear=True)
            <= weight
        )


@given(st.integers(0, 300000), st.booleans())
def test_more_shares_never_weigh_less(shares: int, linear: bool) -> None:
    assert shares_to_weight(shares, linear=linear) <= shares_to_weight(shares + 1, linear=linear)


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("", set()),
        ("0", {0}),
        ("0-3,8", {0, 1, 2, 3, 8}),
        ("8,0-1,1", {0, 1, 8}),
        ("1-1", {1}),
        ("0-1\n", {0, 1}),
        ("0, 2", {0, 2}),
    ],
)
def test_lists(text: str, cpus: set[int]) -> None:
    assert parse_cpus(text) == cpus


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a", "is not a number or a range"),
        ("1,", "is not a number or a range"),
        ("-1", "is not a number or a range"),
        ("0-7:2/4", "is not a number or a range"),
        ("3-1", "ends before it begins"),
        ("0-999999999", "above the greatest CPU"),
    ],
)
def test_wrong_lists(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_cpus(text)


def test_the_work_is_linear() -> None:
    # Each number of a range that occurs 30,000 times would take minutes, with the GIL held.
    for text in ("0-65535," * 30_000 + "7", "".join(f"{n}-65535," for n in range(30_000)) + "7"):
        began = time.process_time()
        assert parse_cpus(text) == frozenset(range(65536))
        assert time.process_time() - began < 5.0


@given(st.frozensets(st.integers(0, 300)))
def test_lists_come_back(cpus: frozenset[int]) -> None:
    assert parse_cpus(format_cpus(cpus)) == cpus


def test_the_shortest_list() -> None:
    assert format_cpus([8, 2, 0, 1, 2]) == "0-2,8"
    with pytest.raises(ValueError, match="-1"):
        format_cpus([-1])
