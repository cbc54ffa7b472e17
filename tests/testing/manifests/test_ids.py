"""Identifiers."""

from __future__ import annotations

import re
import uuid

from nri_sync.testing.manifests import ids

__all__: list[str] = []


def test_ids_are_stable_and_differ_by_subject() -> None:
    assert ids.container_id("a", "bc") == ids.container_id("a", "bc") != ids.container_id("ab", "c")
    assert re.fullmatch("[0-9a-f]{64}", ids.container_id("a"))
    assert str(uuid.UUID(ids.uid("a", "b"))) == ids.uid("a", "b") != ids.uid("ab")
    assert ids.short_name(5, "a") != ids.short_name(5, "b")


def test_short_names_are_as_controllers_have_them() -> None:
    assert re.fullmatch("[bcdfghjklmnpqrstvwxz2456789]{10}", ids.short_name(10, "web"))


def test_process_ids_are_of_no_process() -> None:
    # The largest value of /proc/sys/kernel/pid_max.
    assert ids.process_id(ids.container_id("a")) > 1 << 22


def test_the_hash_of_a_container_is_that_of_the_kubelet() -> None:
    # From HashContainer of Kubernetes v1.36 with these two.
    assert ids.container_hash("app", "nginx:1.27") == "a763184"
