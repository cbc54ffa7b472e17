"""References to container images, and which image a container has. Pure functions.

The grammar and the defaults are those of github.com/distribution/reference v0.6.0 (``regexp.go``,
``normalize.go``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from nri_sync import api
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

_CONTAINERD = "io.kubernetes.cri.image-name"
# What CRI-O has: a name of the image, the one that was asked for, and its id (in old releases a name with digest).
_CRIO = (
    "io.kubernetes.cri-o.ImageName",
    "io.kubernetes.cri-o.Image",
    "io.kubernetes.cri-o.ImageRef",
)


@dataclass(frozen=True)
class ImageReference:
    """Names an image: ``registry``/``repository``, by ``tag``, by ``digest``, or both.

    ``str()`` is the whole reference and ``familiar`` what people write. With neither tag nor
    digest, a runtime takes the tag "latest".
    """

    registry: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> ImageReference:
        """Read a reference; "nginx" is docker.io/library/nginx. Raises ValueError for what is
        none."""
        if _ID.fullmatch(text):
            raise ValueError(f"{quoted(text)} is the id of an image, not a reference to one")
        match = _REFERENCE.fullmatch(_with_registry(text))
        if match is None:
            raise ValueError(
                f'{quoted(text)} is no reference to an image, such as "registry.example:5000/shop/web:1.2"'
            )
        if len(match["repository"]) > _LONGEST_REPOSITORY:
            raise ValueError(
                f"the repository of an image has at most {_LONGEST_REPOSITORY} characters: {quoted(text)}"
            )
        if match["digest"] is not None and not _DIGEST.fullmatch(match["digest"]):
            raise ValueError(
                f"{quoted(match['digest'])} is no digest, in the image reference {quoted(text)}"
            )
        return cls(**match.groupdict())

    @property
    def name(self) -> str:
        """Registry and repository, without tag and digest."""
        return f"{self.registry}/{self.repository}"

    @property
    def familiar(self) -> str:
        """Without what is the default: "nginx:1.27" for docker.io/library/nginx:1.27."""
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
    """The reference with registry and repository in full (``splitDockerDomain``)."""
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
    """The image of a container, as far as the runtime tells.

    ``reference`` is a name for it; ``image.name`` may be another tag of the same image than the pod
    asks for. ``digest`` is that of its index or manifest, what registries and signatures know it
    by; ``id`` the digest of its configuration, what ``crictl images`` shows.
    """

    reference: ImageReference | None = None
    digest: str | None = None
    id: str | None = None


def container_image(container: api.Container) -> ContainerImage:
    """Which image a container was made from: by ``container.image`` (NRI 0.12.2 and newer), else by
    its annotations.

    containerd has a name, CRI-O names and the id; without ``container.image`` there is a digest
    only where a name has it. All are None where the runtime says nothing.
    """
    image = container.image
    names = [image.name, container.annotations.get(_CONTAINERD, "")]
    names += [container.annotations.get(key, "") for key in _CRIO]
    references = [reference for reference in map(_reference, names) if reference]
    digests = (reference.digest for reference in references if reference.digest)
    ids = (_id(name) for name in [image.config_digest, *names])
    return ContainerImage(
        reference=references[0] if references else None,
        digest=image.digest or next(digests, None),
        id=next((found for found in ids if found), None),
    )


def _reference(name: str) -> ImageReference | None:
    if not name or _id(name):
        return None
    try:
        return ImageReference.parse(name)
    except ValueError:
        return None


def _id(text: str) -> str | None:
    return f"sha256:{text}" if _ID.fullmatch(text) else text if _DIGEST.fullmatch(text) else None
