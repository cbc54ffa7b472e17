from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from nri_sync.api import EventMask, nri_pb2, pretty_name

__all__: list[str] = []

NAMES = [
    "RunPodSandbox",
    "StopPodSandbox",
    "RemovePodSandbox",
    "CreateContainer",
    "PostCreateContainer",
    "StartContainer",
    "PostStartContainer",
    "UpdateContainer",
    "PostUpdateContainer",
    "StopContainer",
    "RemoveContainer",
    "UpdatePodSandbox",
    "PostUpdatePodSandbox",
    "ValidateContainerAdjustment",
]


def test_pretty_names_are_those_of_the_methods() -> None:
    assert [pretty_name(number) for number in range(1, 15)] == NAMES
    methods = nri_pb2.DESCRIPTOR.services_by_name["Plugin"].methods_by_name
    assert set(NAMES) < set(methods)


@pytest.mark.parametrize("number", [0, 15, 99, -1])
def test_a_number_without_an_event_has_a_pretty_name(number: int) -> None:
    assert pretty_name(number) == f"unknown({number})"


def test_members_have_the_bits_of_the_protocol() -> None:
    for name, number in nri_pb2.Event.items():
        if name not in ("UNKNOWN", "LAST"):
            assert EventMask[name] == 1 << (number - 1) == EventMask.of(number)


def test_groups() -> None:
    assert int(EventMask.ALL) == 0x3FFF
    assert [pretty_name(number) for number in EventMask.POD.numbers] == [
        name for name in NAMES if "Pod" in name
    ]
    assert [pretty_name(number) for number in EventMask.CONTAINER.numbers] == [
        name for name in NAMES if "Container" in name
    ]


@pytest.mark.parametrize(
    ("texts", "mask"),
    [
        ([], 0),
        (["runpodsandbox"], 0x1),
        (["RunPodSandbox, CREATECONTAINER"], 0x9),
        (["createcontainer", "stopcontainer,removecontainer"], 0x608),
        (["pod"], 0x1807),
        (["podsandbox"], 0x1807),
        (["container"], 0x27F8),
        (["all"], 0x3FFF),
        # Go does not trim the names of groups.
        ([" all"], 0x3FFF),
        (["createcontainer, pod ,\tCONTAINER"], 0x3FFF),
    ],
)
def test_parse(texts: list[str], mask: int) -> None:
    assert EventMask.parse(*texts) == mask
    assert type(EventMask.parse(*texts)) is EventMask


@pytest.mark.parametrize(
    "text", ["", "pod,", "create_container", "pods", "unknown", "last", "createcontainer;pod"]
)
def test_parse_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="unknown event"):
        EventMask.parse("pod", text)


def test_parse_names_the_item_and_guesses() -> None:
    with pytest.raises(
        ValueError,
        match=r"^unknown event 'createcontaner' in 'pod,CreateContaner'; "
        r"did you mean 'createcontainer'\?$",
    ):
        EventMask.parse("pod,CreateContaner")


def test_parse_refuses_other_types() -> None:
    with pytest.raises(TypeError, match="list of events must be a str, not int: 3"):
        EventMask.parse(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mask", "text"),
    [
        (0, ""),
        (0x9, "RunPodSandbox,CreateContainer"),
        (0xC00, "RemoveContainer,UpdatePodSandbox"),
        (0x3FFF, ",".join(NAMES)),
        (0x4000, "unknown(15)"),
        (0x8000, "unknown(0x8000)"),
        (0x18001, "RunPodSandbox,unknown(0x18000)"),
        (0x80004001, "RunPodSandbox,unknown(15),unknown(0x80000000)"),
        (-0x8000, "unknown(0xffff8000)"),
    ],
)
def test_text(mask: int, text: str) -> None:
    assert str(EventMask(mask)) == text
    assert f"{EventMask(mask)}" == text


def test_a_text_parses_back() -> None:
    for mask in (EventMask.ALL, EventMask.POD, EventMask.CREATE_CONTAINER):
        assert EventMask.parse(str(mask)) == mask


def test_a_format_is_that_of_the_number() -> None:
    assert f"{EventMask.ALL:#x}" == "0x3fff"


def test_set_operations() -> None:
    mask = EventMask.POD | EventMask.CREATE_CONTAINER
    assert EventMask.CREATE_CONTAINER in mask
    assert EventMask.STOP_CONTAINER not in mask
    mask &= ~EventMask.POD
    assert mask == EventMask.CREATE_CONTAINER
    assert type(mask) is EventMask
    assert EventMask(0x8001) & ~EventMask.ALL == 0x8000


def test_of_several_numbers() -> None:
    mask = EventMask.of(nri_pb2.Event.RUN_POD_SANDBOX, nri_pb2.Event.CREATE_CONTAINER)
    assert mask == 0x9
    assert mask.numbers == [1, 4]
    assert EventMask.of() == 0


@pytest.mark.parametrize("number", [0, 15, 33, -1])
def test_of_refuses_numbers_without_an_event(number: int) -> None:
    with pytest.raises(ValueError, match=f"{number} is not the number of an event"):
        EventMask.of(1, number)


NEW = EventMask.UPDATE_POD_SANDBOX
OLD = EventMask.CREATE_CONTAINER


@pytest.mark.parametrize(
    ("mask", "required"),
    [
        (EventMask(0), 0),
        (NEW, NEW),
        (EventMask.POD, 0),
        (EventMask.CONTAINER, 0),
        (EventMask.ALL, 0),
        # The number of a group means the group.
        (EventMask(0x1807), 0),
        (EventMask.parse("all"), 0),
        (EventMask.parse("pod"), 0),
        (EventMask.parse("container", "podsandbox"), 0),
        (EventMask.parse("pod,createcontainer"), OLD),
        (EventMask.parse("updatepodsandbox,pod"), NEW),
        (EventMask.of(*range(1, 15)), EventMask.ALL),
        (EventMask.POD | OLD, OLD),
        (OLD | EventMask.POD, OLD),
        (8 | EventMask.POD, OLD),
        (EventMask.POD | NEW, NEW),
        (EventMask.POD | NEW | EventMask.POD, NEW),
        (EventMask.POD | NEW.optional(), 0),
        (NEW.optional() | NEW, NEW),
        (EventMask.ALL & ~EventMask.POST_UPDATE_POD_SANDBOX, 0),
        ((EventMask.POD | OLD) & ~EventMask.RUN_POD_SANDBOX, OLD),
        ((NEW | OLD) & ~OLD, NEW),
        (EventMask.ALL & (NEW | OLD), 0),
        ((NEW | OLD) & EventMask.of(*range(1, 14)), NEW | OLD),
        (EventMask.ALL ^ EventMask.RUN_POD_SANDBOX, 0),
        ((NEW | OLD).optional(), 0),
        (EventMask.ALL.optional(), 0),
    ],
)
def test_required_events(mask: EventMask, required: int) -> None:
    for kept in (mask, copy.copy(mask), copy.deepcopy([mask])[0], pickle.loads(pickle.dumps(mask))):
        assert type(kept) is EventMask
        assert kept == mask
        assert hash(kept) == hash(mask)
        assert kept.required == required
        assert kept.required.required == required
        assert not kept.optional().required
        assert str(kept) == str(EventMask(int(mask)))


def test_the_groups_never_change() -> None:
    mask = EventMask.POD
    mask |= NEW
    assert mask == EventMask.POD
    assert mask.required == NEW
    assert not EventMask.POD.required
    assert not EventMask.parse("pod").required
    assert not EventMask(0x1807).required
    assert EventMask["POD"] is EventMask.POD


@pytest.mark.parametrize("other", ["pod", None, 1.5])
def test_other_types_do_not_combine(other: Any) -> None:
    with pytest.raises(TypeError):
        EventMask.POD | other
    with pytest.raises(TypeError):
        EventMask.POD & other


def test_an_unknown_event_is_quoted_in_few_characters() -> None:
    with pytest.raises(ValueError, match="unknown event") as caught:
        EventMask.parse("pod," + "x\7" * 100_000)
    assert len(str(caught.value)) < 300
