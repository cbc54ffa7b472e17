"""Faults: their values, and the kinds that depend on the boundaries of writes."""

from __future__ import annotations

import random
import socket
import threading

import pytest

from nri_sync.testing import FAULT_KINDS, Fault, FaultyConnection

__all__: list[str] = []

LIMIT = 20.0


def test_split_sends_byte_by_byte() -> None:
    # A socket of packets keeps the boundaries of writes; a stream does not.
    source, from_source = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    sink, to_sink = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with source, from_source, sink, to_sink:
        connection = FaultyConnection([Fault("split", 2, "runtime", length=3)])
        worker = threading.Thread(target=connection.run, args=(to_sink, from_source))
        worker.start()
        source.sendall(b"abcdefg")
        sink.settimeout(LIMIT)
        assert [sink.recv(100) for _ in range(5)] == [b"ab", b"c", b"d", b"e", b"fg"]
        connection.cut()
        worker.join(LIMIT)


def test_coalesce_sends_at_once() -> None:
    source, from_source = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    sink, to_sink = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with source, from_source, sink, to_sink:
        fault = Fault("coalesce", 1, "runtime", length=6, seconds=LIMIT)
        connection = FaultyConnection([fault])
        worker = threading.Thread(target=connection.run, args=(to_sink, from_source))
        worker.start()
        source.sendall(b"abc")
        assert connection.wait_struck(LIMIT)
        source.sendall(b"def")
        source.sendall(b"g")
        sink.settimeout(LIMIT)
        assert [sink.recv(100), sink.recv(100)] == [b"a", b"bcdefg"]
        connection.cut()
        worker.join(LIMIT)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("burn",), "no fault 'burn'"),
        (("cut", -1), "must not be negative"),
        (("cut", 0, "neither"), "sender must be one of runtime, plugin"),
        (("cut", 0, "plugin", 0), "length must be positive"),
        (("delay",), "needs seconds"),
        (("coalesce",), "needs seconds"),
        (("stall", 0, "plugin", 1, float("inf")), "finite"),
        (("stall", 0, "plugin", 1, float("nan")), "finite"),
        (("corrupt", 0, "plugin", 1, None, 0), "mask must be from 1 to 255"),
        (("corrupt", 0, "plugin", 1, None, 256), "mask must be from 1 to 255"),
    ],
)
def test_an_invalid_fault(arguments: tuple[str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Fault(*arguments)


@pytest.mark.parametrize("kind", FAULT_KINDS)
def test_a_seed_determines_the_drawn_faults(kind: str) -> None:
    def drawn() -> list[Fault]:
        source = random.Random(3)
        return [Fault.draw(kind, 5, "plugin", source) for _ in range(50)]

    faults = drawn()
    assert faults == drawn()
    assert len(set(faults)) > 40
    assert {(fault.kind, fault.offset, fault.sender) for fault in faults} == {(kind, 5, "plugin")}
    assert any(fault.seconds is None for fault in faults) == (kind == "stall")
