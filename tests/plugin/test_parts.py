"""Measuring the parts of a node's state, and the bound on the parts that the stub keeps."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from nri_sync.api import nri_pb2
from nri_sync.plugin import parts
from nri_sync.plugin.parts import MOST, Measured, NodeState, Parts, measure, parse

__all__: list[str] = []

TEXTS = st.text(max_size=300)


@given(
    st.lists(st.builds(nri_pb2.PodSandbox, id=TEXTS), max_size=5),
    st.lists(st.builds(nri_pb2.Container, id=TEXTS, args=st.lists(TEXTS, max_size=3)), max_size=5),
    st.booleans(),
)
def test_the_measure_equals_the_content(
    pods: list[nri_pb2.PodSandbox], containers: list[nri_pb2.Container], more: bool
) -> None:
    part = nri_pb2.SynchronizeRequest(pods=pods, containers=containers, more=more)
    assert measure(part.SerializeToString()) == Measured(len(pods) + len(containers), more)


@pytest.mark.parametrize("size", [0, 125, 126, 300, 16_379, 16_380, 3_000_000])
def test_objects_whose_lengths_have_one_to_four_bytes(size: int) -> None:
    pods = [nri_pb2.PodSandbox(id="x" * size)] * 3
    part = nri_pb2.SynchronizeRequest(pods=pods, containers=[nri_pb2.Container()], more=True)
    assert measure(part.SerializeToString())[:2] == (4, True)


@given(st.binary(max_size=100))
def test_any_bytes_can_be_measured(data: bytes) -> None:
    measured = measure(data)
    try:
        part = nri_pb2.SynchronizeRequest.FromString(data)
    except DecodeError:
        return
    # More where there are groups.
    assert measured.objects >= len(part.pods) + len(part.containers)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", Measured(0, False)),
        (b"\x0a\x00\x12\x00\x18\x01", Measured(2, True)),
        # The last one counts, as where the message is parsed.
        (b"\x18\x01\x18\x00", Measured(0, False)),
        # Fields that this release does not know: fixed64, fixed32, bytes, a number above 15. Their values look
        # like containers.
        (b"\x21" + 4 * b"\x12\x00" + b"\x25" + 2 * b"\x12\x00" + b"\x12\x00", Measured(1, False)),
        (b"\x2a\x02\x12\x00\xa2\x06\x02\x12\x00\x12\x00", Measured(1, False)),
        # A tag, and a length, that take two bytes for a small number.
        (b"\x92\x00\x80\x00\x98\x00\x81\x00", Measured(1, True)),
        # The fields after a group, and the fields inside a group.
        (b"\x23\x12\x00\x24\x12\x00", Measured(2, False)),
        # Cut off: within a length, after one.
        (b"\x12", Measured(0, False)),
        (b"\x12\x80", Measured(0, False)),
        (b"\x12\x05x", Measured(1, False)),
        # A number without an end.
        # A number of more than ten bytes is no number.
        (b"\x18" + b"\xff" * 30, Measured(0, False)),
        (b"\x07", Measured(0, False)),
    ],
)  # fmt: skip
def test_the_wire(data: bytes, expected: Measured) -> None:
    assert measure(data) == expected


@pytest.mark.parametrize("size", [0, 100, 20_000, 200_000])
def test_a_message_is_cut_between_its_fields(size: int) -> None:
    part = nri_pb2.SynchronizeRequest(
        pods=[nri_pb2.PodSandbox(id=f"pod{number}") for number in range(3000)],
        containers=[
            nri_pb2.Container(id=f"ctr{number}", args=["x" * size]) for number in range(30)
        ],
        more=True,
    )
    data = part.SerializeToString()
    measured = measure(memoryview(data))
    assert (measured.objects, measured.more) == (3030, True)
    begins = (0, *measured.cuts)
    longest = 64 * 1024 + size + 100
    assert all(0 < end - begin <= longest for begin, end in zip(begins, begins[1:]))
    assert 0 < len(data) - begins[-1] <= longest
    assert parse(memoryview(data), measured.cuts) == part


def test_a_group_is_not_cut() -> None:
    # A group of number 15, which a later release may have, full of containers; then a container.
    data = b"\x7b" + 40_000 * b"\x12\x00" + b"\x7c" + b"\x12\x00"
    measured = measure(data)
    assert measured.cuts == ()
    assert parse(data, measured.cuts) == nri_pb2.SynchronizeRequest.FromString(data)


# A container as large as a piece, the begin and end of a group, `more`, and the begin of a number.
LARGE = nri_pb2.SynchronizeRequest(
    containers=[nri_pb2.Container(id="x" * 70_000)]
).SerializeToString()


@given(st.lists(st.sampled_from([LARGE, b"\x7b", b"\x7c", b"\x18\x01", b"\xff"]), max_size=8))
def test_pieces_are_parsed_as_the_whole(fields: list[bytes]) -> None:
    data = b"".join(fields)
    measured = measure(data)
    try:
        whole = nri_pb2.SynchronizeRequest.FromString(data)
    except DecodeError:
        with pytest.raises(DecodeError):
            parse(data, measured.cuts)
        return
    assert parse(data, measured.cuts) == whole


def test_tiny_objects_are_too_much_before_they_are_parsed() -> None:
    tiny = nri_pb2.SynchronizeRequest(containers=[nri_pb2.Container()]).SerializeToString()
    collected = Parts()
    assert not collected.count(tiny * 300_000)
    state = collected.add(nri_pb2.SynchronizeRequest(), None, 1.0)
    assert state is not None
    assert (state.pods, state.containers, state.too_much) == ([], [], True)
    assert collected.count(tiny)


def test_a_node_of_50_000_containers_fits() -> None:
    collected = Parts()
    container = nri_pb2.Container(id="x" * 3000)
    part = nri_pb2.SynchronizeRequest(containers=[container] * 1000).SerializeToString()
    assert all(collected.count(part) for _ in range(50))


def test_the_bound_is_on_all_parts_together(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST == 256 << 20
    monkeypatch.setattr(parts, "MOST", 10_000)
    part = nri_pb2.SynchronizeRequest(pods=[nri_pb2.PodSandbox(id="x" * 2000)], more=True)
    collected = Parts()
    for _ in range(3):
        assert collected.count(part.SerializeToString())
        assert collected.add(part, None, 1.0) is None
    assert not collected.count(part.SerializeToString())
    state = collected.add(nri_pb2.SynchronizeRequest(), None, 1.0)
    assert state is not None
    assert (len(state.pods), state.containers, state.too_much) == (3, [], True)
    assert collected.count(part.SerializeToString())


@pytest.mark.parametrize("missing", [0, 1])
def test_a_state_of_exactly_the_bound_fits(missing: int, monkeypatch: pytest.MonkeyPatch) -> None:
    part = nri_pb2.SynchronizeRequest(pods=[nri_pb2.PodSandbox(id="p")])
    data = part.SerializeToString()
    monkeypatch.setattr(parts, "MOST", len(data) + 1024 - missing)
    collected = Parts()
    assert (collected.count(data) is None) == bool(missing)
    state = collected.add(part, None, 1.0)
    assert state is not None
    assert state.too_much == bool(missing)


def test_the_state_is_complete_with_the_last_part() -> None:
    collected = Parts()
    pod, container = nri_pb2.PodSandbox(id="p"), nri_pb2.Container(id="c")
    part = nri_pb2.SynchronizeRequest(pods=[pod], more=True)
    last = nri_pb2.SynchronizeRequest(containers=[container])
    size = len(part.SerializeToString() + last.SerializeToString()) + 2 * 1024
    assert not collected.is_complete
    complete = []
    for _ in range(2):  # the next state starts from nothing
        for message, state in ((part, None), (last, NodeState([pod], [container], size, False))):
            assert collected.count(message.SerializeToString())
            complete.append(collected.is_complete)
            assert collected.add(message, None, 1.0) == state
            complete.append(collected.is_complete)
    assert complete == [False, False, True, False] * 2


@pytest.mark.parametrize(
    ("dues", "expected"),
    [((None, None), (5.0, 5.0)), ((3.0, 4.0), (3.0, 4.0)), ((3.0, None), (3.0, 3.0))],
)
def test_when_the_runtime_gives_up(
    dues: tuple[float | None, ...], expected: tuple[float, ...]
) -> None:
    collected = Parts()
    part = nri_pb2.SynchronizeRequest(more=True)
    seen: list[float | None] = []
    for number, due in enumerate(dues):
        collected.add(part, due, 5.0 + number)
        seen.append(collected.due)
    collected.add(nri_pb2.SynchronizeRequest(), None, 9.0)
    seen.append(collected.due)
    assert tuple(seen) == (*expected, None)
