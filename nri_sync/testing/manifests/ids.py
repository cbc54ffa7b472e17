"""Identifiers that are random on a node. Here they are hashes of names, so that they are the same each time."""

from __future__ import annotations

import hashlib
import json
import uuid

__all__ = ["container_hash", "container_id", "process_id", "short_name", "uid"]

# ``SafeEncodeString`` in k8s.io/apimachinery. Without vowels, the result contains no words.
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
# Linux assigns no process ids above 4,194,304, so a plugin finds no such process in /proc.
_FIRST_PID, _PIDS = 5_000_000, 1_000_000


def container_id(*parts: str) -> str:
    """64 hexadecimal digits, for a pod or container, or for the digest of an image."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def uid(*parts: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "\0".join(parts)))


def short_name(length: int, *parts: str) -> str:
    """The random end of a name that a controller generates, for example "x7kqz"."""
    number = int(container_id("short name", *parts), 16)
    letters = []
    for _ in range(length):
        number, digit = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[digit])
    return "".join(letters)


def process_id(id: str) -> int:
    return _FIRST_PID + int(id[:12], 16) % _PIDS


def container_hash(name: str, image: str) -> str:
    """The annotation ``io.kubernetes.container.hash``: ``HashContainer`` in Kubernetes, ``pkg/kubelet/container``.

    It is the FNV-1a of a JSON object in Go's encoding.
    """
    fields = json.dumps({"image": image, "name": name}, separators=(",", ":"), ensure_ascii=False)
    printed = f"([]uint8)[{' '.join(str(byte) for byte in fields.encode())}]"
    value = 0x811C9DC5
    for byte in printed.encode():
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return f"{value:x}"
