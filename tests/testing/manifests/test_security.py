"""Security contexts."""

from __future__ import annotations

from typing import Any

import pytest

from nri_sync.api import SecurityProfile, User
from nri_sync.testing.manifests.cri import Security
from nri_sync.testing.manifests.model import Assumptions, ImageConfig, ManifestError
from nri_sync.testing.manifests.security import read_security
from tests.testing.manifests import fields

__all__: list[str] = []


def read(pod: Any = None, own: Any = None, **options: Any) -> Security:
    notes: list[str] = options.pop("notes", [])
    image = ImageConfig(user=options.pop("image_user", ""))
    return read_security(
        fields({"securityContext": pod}),
        fields({"securityContext": own}),
        image,
        Assumptions(**options),
        notes.append,
    )


def test_without_any() -> None:
    security = read()
    assert security.user == User()
    assert not security.supplemental_groups
    assert not security.privileged
    assert not security.readonly_root
    assert not security.no_new_privileges
    assert "/proc/kcore" in security.masked_paths
    assert "/proc/sys" in security.readonly_paths
    assert security.seccomp.profile_type == SecurityProfile.UNCONFINED


def test_the_container_s_word_counts_more_than_the_pod_s() -> None:
    pod = {"runAsUser": 1000, "runAsGroup": 3000, "seccompProfile": {"type": "RuntimeDefault"}}
    own = {"runAsUser": 0, "seccompProfile": {"type": "Unconfined"}}
    assert read(pod).user == User(uid=1000, gid=3000)
    assert read(pod, own).user == User(uid=0, gid=3000)
    assert read(pod).seccomp.profile_type == SecurityProfile.RUNTIME_DEFAULT
    assert read(pod, own).seccomp.profile_type == SecurityProfile.UNCONFINED


@pytest.mark.parametrize(
    ("user", "own", "expected", "note"),
    [
        # The group from the image is ignored.
        ("65532:65533", {}, (65532, 0), "the group of user 65532 is in"),
        ("65532:staff", {}, (65532, 0), "the group of user 65532 is in"),
        ("65532:65533", {"runAsGroup": 7}, (65532, 7), ""),
        ("65532:65533", {"runAsUser": 8}, (8, 0), "the group of user 8 is in"),
        ("65532", {}, (65532, 0), "the group of user 65532 is in"),
        ("nginx", {}, (0, 0), "the image's user 'nginx' is in its /etc/passwd"),
    ],
)
def test_the_image_s_user(user: str, own: Any, expected: tuple[int, int], note: str) -> None:
    notes: list[str] = []
    found = read(None, own, image_user=user, notes=notes).user
    assert (found.uid, found.gid) == expected
    assert [text.startswith(note) for text in notes] == [True] * bool(note)


def test_groups() -> None:
    groups = {"fsGroup": 2000, "supplementalGroups": [4000, 5000]}
    assert read(groups).supplemental_groups == [2000, 4000, 5000]


def test_proc_without_masks() -> None:
    security = read(None, {"procMount": "Unmasked"})
    assert security.masked_paths == security.readonly_paths == []


def test_no_new_privileges() -> None:
    assert read(None, {"allowPrivilegeEscalation": False}).no_new_privileges
    assert not read(None, {"allowPrivilegeEscalation": True}).no_new_privileges


def test_seccomp() -> None:
    assert read(seccomp_default=True).seccomp.profile_type == SecurityProfile.RUNTIME_DEFAULT
    local = read({"seccompProfile": {"type": "Localhost", "localhostProfile": "a/b.json"}}).seccomp
    assert local.profile_type == SecurityProfile.LOCALHOST
    assert local.localhost_ref == "/var/lib/kubelet/seccomp/a/b.json"


def test_apparmor_profiles_of_the_node() -> None:
    own = {"appArmorProfile": {"type": "Localhost", "localhostProfile": "mine"}}
    assert read(None, own).apparmor == "mine"
    assert read(None, {**own, "privileged": True}).apparmor == ""
    assert read(None, {"appArmorProfile": {"type": "RuntimeDefault"}}).apparmor == ""


@pytest.mark.parametrize(
    ("pod", "own", "note"),
    [
        ({"seLinuxOptions": {"level": "s0"}}, None, "SELinux is assumed to be off"),
        (None, {"privileged": True}, "privileged: it has all devices"),
        ({"seccompProfile": {"type": "RuntimeDefault"}}, None, "the rules of its seccomp profile"),
    ],
)
def test_a_note_names_the_unknown_part(pod: Any, own: Any, note: str) -> None:
    notes: list[str] = []
    read(pod, own, notes=notes)
    assert [text.startswith(note) for text in notes] == [True]


@pytest.mark.parametrize(
    ("pod", "own", "text"),
    [
        (None, {"privileged": True, "allowPrivilegeEscalation": False}, "cannot be false"),
        ({"runAsUser": -1}, None, "runAsUser: -1 is no id"),
        ({"runAsNonRoot": True}, {"runAsUser": 0}, "runAsNonRoot: contradicts runAsUser 0"),
        ({"seccompProfile": {"type": "Localhost"}}, None, "localhostProfile: is missing"),
        ({"seccompProfile": {"type": "Default"}}, None, "'Default' is none of RuntimeDefault"),
    ],
)  # fmt: skip
def test_a_security_context_that_the_kubelet_refuses(pod: Any, own: Any, text: str) -> None:
    with pytest.raises(ManifestError, match=text):
        read(pod, own)


@pytest.mark.parametrize("name", ["CAP_SYS_ADMIN", "cap_sys_admin"])
def test_capabilities_with_a_prefix_are_noted(name: str) -> None:
    notes: list[str] = []
    security = read(None, {"capabilities": {"add": [name]}}, notes=notes)
    assert security.add_capabilities == [name]
    assert f"capability {name}: containerd reads it as CAP_CAP_SYS_ADMIN" in notes[0]


LOCAL = {"type": "Localhost", "localhostProfile": "other"}


@pytest.mark.parametrize(
    ("annotation", "pod", "own", "profile"),
    [
        ("localhost/deny-write", LOCAL, None, "deny-write"),
        ("localhost/deny-write", None, {"type": "Localhost", "localhostProfile": "own"}, "own"),
        ("localhost/deny-write", None, {"type": "Unconfined"}, ""),
        ("unconfined", LOCAL, None, ""),
        ("runtime/default", LOCAL, None, ""),
        # A value that names no profile is ignored.
        ("localhost/", LOCAL, None, "other"),
        ("deny-write", LOCAL, None, "other"),
        ("", LOCAL, None, "other"),
        ("localhost/a/b", None, None, "a/b"),
    ],
)
def test_annotations_for_apparmor(annotation: str, pod: Any, own: Any, profile: str) -> None:
    """``GetProfile`` in ``pkg/security/apparmor``."""
    security = read_security(
        fields({"securityContext": {"appArmorProfile": pod}}),
        fields({"name": "app", "securityContext": {"appArmorProfile": own}}),
        ImageConfig(),
        Assumptions(),
        lambda note: None,
        {"container.apparmor.security.beta.kubernetes.io/app": annotation},
    )
    assert security.apparmor == profile
