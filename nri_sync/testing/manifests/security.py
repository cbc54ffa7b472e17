"""Security contexts: the user and the privileges of a container.

After Kubernetes v1.36, ``pkg/securitycontext/util.go`` and ``pkg/kubelet/kuberuntime/security_context.go``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Callable

from nri_sync.api.nri_pb2 import SecurityProfile, User
from nri_sync.testing.manifests.cri import Security
from nri_sync.testing.manifests.fields import Fields
from nri_sync.testing.manifests.model import Assumptions, ImageConfig

__all__ = ["read_security"]

# ``defaultMaskedPaths`` and ``defaultReadonlyPaths``, without those that depend on the node's CPUs.
_MASKED_PATHS = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
]
_READONLY_PATHS = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
_SECCOMP_ROOT = "/var/lib/kubelet/seccomp"
_LARGEST_ID = (1 << 31) - 1
_APPARMOR = "container.apparmor.security.beta.kubernetes.io"

Note = Callable[[str], object]


def read_security(
    pod: Fields,
    container: Fields,
    image: ImageConfig,
    assumptions: Assumptions,
    note: Note,
    annotations: Mapping[str, str] | None = None,
) -> Security:
    """The security context of a container, from ``spec`` and from its own entry, which has precedence.

    ``annotations`` are those of the pod. Calls ``note`` with each unknown property.

    Raises ManifestError for a context that the kubelet rejects.
    """
    common, own = pod.object("securityContext"), container.object("securityContext")
    unmasked = own.text("procMount") == "Unmasked"
    capabilities = own.object("capabilities")
    security = Security(
        user=_user(common, own, image, note),
        supplemental_groups=_groups(common),
        add_capabilities=capabilities.texts("add"),
        drop_capabilities=capabilities.texts("drop"),
        privileged=own.flag("privileged"),
        readonly_root=own.flag("readOnlyRootFilesystem"),
        no_new_privileges=not own.flag("allowPrivilegeEscalation", True),
        seccomp=_seccomp(common, own, assumptions),
        masked_paths=[] if unmasked else list(_MASKED_PATHS),
        readonly_paths=[] if unmasked else list(_READONLY_PATHS),
    )
    for name in [*security.add_capabilities, *security.drop_capabilities]:
        if name.upper().startswith("CAP_"):
            note(
                f"capability {name}: containerd reads it as CAP_{name.upper()}, which does not exist: "
                f"write {name[4:]}; CRI-O accepts both"
            )
    if security.privileged and not own.flag("allowPrivilegeEscalation", True):
        own.fail("allowPrivilegeEscalation cannot be false in a privileged container")
    annotation = (annotations or {}).get(f"{_APPARMOR}/{container.text('name')}", "")
    _apparmor(common, own, annotation, security)
    if own.object("seLinuxOptions") or common.object("seLinuxOptions"):
        note("SELinux is assumed to be off on the node: no labels")
    if security.privileged:
        note("privileged: it has all devices of the node, which are not listed")
    elif security.seccomp.profile_type != SecurityProfile.UNCONFINED:
        note("the rules of its seccomp profile, which are the runtime's or a file's, are left out")
    return security


def _user(common: Fields, own: Fields, image: ImageConfig, note: Note) -> User:
    uid, gid = (_id(common, own, key) for key in ("runAsUser", "runAsGroup"))
    # The kubelet uses the user alone. containerd finds the group in the image's files.
    from_image = image.user.partition(":")[0]
    if uid is None and from_image:
        if not from_image.isdigit():
            note(f"the image's user {from_image!r} is in its /etc/passwd: assumed to be 0")
        uid = int(from_image) if from_image.isdigit() else 0
    uid = uid or 0
    non_root = own if "runAsNonRoot" in own else common
    if non_root.flag("runAsNonRoot") and uid == 0 and _id(common, own, "runAsUser") == 0:
        non_root.fail("contradicts runAsUser 0: the kubelet does not start this", "runAsNonRoot")
    if uid and gid is None:
        note(f"the group of user {uid} is in the image's /etc/passwd: assumed to be 0")
    return User(uid=uid, gid=gid or 0)


def _id(common: Fields, own: Fields, key: str) -> int | None:
    context = own if key in own else common
    if key not in context:
        return None
    found = context.integer(key)
    if not 0 <= found <= _LARGEST_ID:
        context.fail(f"{found} is no id: those are from 0 to {_LARGEST_ID}", key)
    return found


def _groups(common: Fields) -> list[int]:
    groups = [common.integer("fsGroup")] if "fsGroup" in common else []
    groups += common.integers("supplementalGroups")
    for group in groups:
        if not 0 <= group <= _LARGEST_ID:
            common.fail(f"{group} is no id of a group: those are from 0 to {_LARGEST_ID}")
    return groups


def _seccomp(common: Fields, own: Fields, assumptions: Assumptions) -> SecurityProfile:
    profile = own.object("seccompProfile") or common.object("seccompProfile")
    kind = profile.text("type") or ("RuntimeDefault" if assumptions.seccomp_default else "")
    if kind == "Localhost":
        file = profile.required("localhostProfile", "name the file of the profile")
        return SecurityProfile(
            profile_type=SecurityProfile.LOCALHOST, localhost_ref=f"{_SECCOMP_ROOT}/{file}"
        )
    if kind == "RuntimeDefault":
        return SecurityProfile(profile_type=SecurityProfile.RUNTIME_DEFAULT)
    if kind not in ("", "Unconfined"):
        profile.fail(f"{kind!r} is none of RuntimeDefault, Unconfined and Localhost", "type")
    return SecurityProfile(profile_type=SecurityProfile.UNCONFINED)


def _apparmor(common: Fields, own: Fields, annotation: str, security: Security) -> None:
    """A profile of the node. The runtime's default profile is left out, because nodes without AppArmor have none.

    An ``annotation`` has precedence over the pod's profile (``GetProfile`` in ``pkg/security/apparmor``).
    """
    profile = own.object("appArmorProfile")
    if not profile and annotation.startswith("localhost/") and annotation != "localhost/":
        if not security.privileged:
            security.apparmor = annotation[len("localhost/") :]
        return
    if not profile and annotation in ("runtime/default", "unconfined"):
        return
    profile = profile or common.object("appArmorProfile")
    if profile.text("type") == "Localhost" and not security.privileged:
        security.apparmor = profile.required("localhostProfile", "name the profile")
