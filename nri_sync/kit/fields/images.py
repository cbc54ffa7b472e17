"""References to container images, and the image of a container. Pure functions.

The grammar and the defaults are those of github.com/distribution/reference v0.6.0 (``regexp.go``,
``normalize.go``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from nri_sync import api
from nri_sync.kit.fields.runtimes import NamedRuntime, RuntimeId
from nri_sync.text import quoted

__all__ = ["ContainerImage", "ImageReference", "container_image"]

_HOST_PART = "(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_REGISTRY = rf"(?:{_HOST_PART}(?:\.{_HOST_PART})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_PART = "[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?P<registry>{_REGISTRY})/(?P<repository>{_PART}(?:/{_PART})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?:@(?P<digest>[^@]+))?"
)
# The algorithms that github.com/opencontainers/go-digest knows.
_DIGEST = re.compile("sha256:[a-f0-9]{64}|sha384:[a-f0-9]{96}|sha512:[a-f0-9]{128}")
_ID = re.compile("[a-f0-9]{64}")
_LONGEST_REPOSITORY = 255
_DOCKER, _LEGACY_DOCKER, _OFFICIAL = "docker.io", "index.docker.io", "library/"

# docs/trust.md has the sources of these facts.
#: containerd: the name in the pod's specification; before containerd 2.0 a name of the image.
_CONTAINERD_NAME = "io.kubernetes.cri.image-name"
#: CRI-O: a name of the image, with a tag if it has a name with a tag; and the name or id in the kubelet's request.
_CRIO_NAME, _CRIO_ASKED = "io.kubernetes.cri-o.ImageName", "io.kubernetes.cri-o.Image"
#: CRI-O: the id; in old releases a name with digest.
_CRIO_REF = "io.kubernetes.cri-o.ImageRef"
#: CRI-O: all names with digest, separated by commas. Before the releases below, a pod's author can write the key.
_CRIO_DIGESTS = "io.kubernetes.cri-o.ImageRepoDigests"
_DIGESTS_SINCE = {(1, 34): 10, (1, 35): 5, (1, 36): 1}


@dataclass(frozen=True)
class ImageReference:
    """Names an image: ``registry``/``repository``, by ``tag``, by ``digest``, or both.

    ``str()`` is the whole reference and ``familiar`` the short form that people write. With neither tag nor
    digest, a runtime takes the tag "latest".
    """

    registry: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> ImageReference:
        """Parse a reference; "nginx" is docker.io/library/nginx. Raises ValueError for any other text."""
        if _ID.fullmatch(text):
            raise ValueError(f"{quoted(text)} is the id of an image, not a reference to one")
        match = _REFERENCE.fullmatch(_with_registry(text))
        if match is None:
            raise ValueError(
                f'{quoted(text)} is not an image reference such as "registry.example:5000/shop/web:1.2"'
            )
        if len(match["repository"]) > _LONGEST_REPOSITORY:
            raise ValueError(
                f"the repository of an image has at most {_LONGEST_REPOSITORY} characters: {quoted(text)}"
            )
        if match["digest"] is not None and not _DIGEST.fullmatch(match["digest"]):
            raise ValueError(
                f"{quoted(match['digest'])} is not a digest, in the image reference {quoted(text)}"
            )
        return cls(**match.groupdict())

    @property
    def name(self) -> str:
        """Registry and repository, without tag and digest."""
        return f"{self.registry}/{self.repository}"

    @property
    def familiar(self) -> str:
        """The reference without the defaults: "nginx:1.27" for docker.io/library/nginx:1.27."""
        short = self.repository if self.registry == _DOCKER else self.name
        bare = short[len(_OFFICIAL) :]
        if self.registry == _DOCKER and short.startswith(_OFFICIAL) and "/" not in bare:
            short = bare
        return short + self._version()

    def _version(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def __str__(self) -> str:
        return self.name + self._version()


def _with_registry(text: str) -> str:
    """Return the reference with the full registry and repository (``splitDockerDomain``)."""
    first, slash, rest = text.partition("/")
    is_registry = first == "localhost" or any(c in ".:" for c in first) or first != first.lower()
    if not slash or not is_registry:
        registry, rest = _DOCKER, text
    else:
        registry = _DOCKER if first == _LEGACY_DOCKER else first
    if registry == _DOCKER and "/" not in rest:
        rest = _OFFICIAL + rest
    return f"{registry}/{rest}"


@dataclass(frozen=True)
class ContainerImage:
    """The image of a container, as far as the runtime shows it.

    ``reference`` is a name of the image; an image may have several. ``requested`` is the name that the pod
    asks for; None where the runtime does not show it. ``digest`` is that of the image's index or manifest,
    under the name in ``reference``; registries and signatures use that digest. ``id`` is the digest of
    the image's configuration, which ``crictl images`` shows.
    """

    reference: ImageReference | None = None
    digest: str | None = None
    id: str | None = None
    requested: ImageReference | None = None


def container_image(
    container: api.Container,
    pod: api.PodSandbox | None = None,
    *,
    runtime: NamedRuntime | None = None,
) -> ContainerImage:
    """Return the image that a container was made from. Values that a pod's author may have written do not count.

    ``container.image`` (NRI 0.12.2 and newer) counts on every runtime. The annotations of containerd count on
    containerd, and those of CRI-O on CRI-O. ``runtime`` is a ``Stub`` or a ``RuntimeId``; the default is the
    runtime of the request that the current thread serves. Outside of a request, without ``runtime``, no
    annotation counts.

    ``pod`` matters on releases of CRI-O before 1.34.10, 1.35.5 and 1.36.1: they do not write
    ``ImageRepoDigests``, so the value counts only if ``pod`` is given and does not have it.
    """
    known = RuntimeId.of(runtime)
    notes = container.annotations
    found = ContainerImage()
    if known.runtime_name == "containerd":
        found = _of_containerd(notes)
    elif known.runtime_name == "cri-o":
        repo_digests = _repo_digests(notes, pod, known)
        found = _of_crio(notes, repo_digests)
    image = container.image
    if not (image.name or image.digest or image.config_digest):
        return found
    # A name that cannot be parsed stays unknown: an annotation might name another image.
    reference = _reference(image.name)
    digest = (reference and reference.digest) or image.digest or None
    return replace(
        found, reference=reference, digest=digest, id=_id(image.config_digest) or _id(image.name)
    )


def _of_containerd(notes: Mapping[str, str]) -> ContainerImage:
    name = notes.get(_CONTAINERD_NAME, "")
    reference = _reference(name)
    return ContainerImage(reference, reference.digest if reference else None, _id(name), reference)


def _of_crio(notes: Mapping[str, str], repo_digests: str) -> ContainerImage:
    asked, ref = notes.get(_CRIO_ASKED, ""), notes.get(_CRIO_REF, "")
    by = _reference(asked)
    name = _reference(notes.get(_CRIO_NAME, ""))
    reference = name or by or _reference(ref)
    named = filter(None, [reference, by, *map(_reference, [ref, *repo_digests.split(",")])])
    digests = [
        each.digest for each in named if reference and each.digest and each.name == reference.name
    ]
    return ContainerImage(
        reference, digests[0] if digests else None, _id(ref) or _id(asked), _requested(by, name)
    )


def _requested(by: ImageReference | None, name: ImageReference | None) -> ImageReference | None:
    """Return the name that the pod requests, on CRI-O.

    The kubelet's request has the result of the pull instead: an id, or up to CRI-O 1.35 a digest. An image
    that has a name with a tag may have been pulled by that tag.
    """
    if by is not None and by.tag:
        return by
    if name is not None and name.tag:
        return None
    return by or name


def _repo_digests(notes: Mapping[str, str], pod: api.PodSandbox | None, known: RuntimeId) -> str:
    """Return the value of ``ImageRepoDigests``; empty if a pod's author may have written it."""
    text = notes.get(_CRIO_DIGESTS, "")
    if pod is not None:
        return "" if pod.annotations.get(_CRIO_DIGESTS) == text else text
    release = known.release()
    if release is None:
        return ""
    since = _DIGESTS_SINCE.get(release[:2])
    written = release >= (1, 37, 0) if since is None else release[2] >= since
    return text if written else ""


def _reference(name: str) -> ImageReference | None:
    if not name or _id(name):
        return None
    try:
        return ImageReference.parse(name)
    except ValueError:
        return None


def _id(text: str) -> str | None:
    return f"sha256:{text}" if _ID.fullmatch(text) else text if _DIGEST.fullmatch(text) else None
