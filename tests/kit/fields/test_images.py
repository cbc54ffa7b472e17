from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nri_sync.api import Container, Image
from nri_sync.kit.fields.images import ContainerImage, ImageReference, container_image

__all__: list[str] = []

SHA = "sha256:" + "a1" * 32
ID = "sha256:" + "b2" * 32
DOCKER = "docker.io"


@pytest.mark.parametrize(
    ("text", "reference", "familiar"),
    [
        ("nginx", ImageReference(DOCKER, "library/nginx"), "nginx"),
        ("nginx:1.27", ImageReference(DOCKER, "library/nginx", "1.27"), "nginx:1.27"),
        ("shop/web", ImageReference(DOCKER, "shop/web"), "shop/web"),
        ("docker.io/nginx", ImageReference(DOCKER, "library/nginx"), "nginx"),
        ("index.docker.io/library/nginx", ImageReference(DOCKER, "library/nginx"), "nginx"),
        ("library/a/b", ImageReference(DOCKER, "library/a/b"), "library/a/b"),
        (f"nginx@{SHA}", ImageReference(DOCKER, "library/nginx", None, SHA), f"nginx@{SHA}"),
        ("registry.k8s.io/pause:3.10", ImageReference("registry.k8s.io", "pause", "3.10"), None),
        (f"quay.io/a/b:1@{SHA}", ImageReference("quay.io", "a/b", "1", SHA), None),
        ("localhost/x", ImageReference("localhost", "x"), None),
        ("localhost:5000/x:y", ImageReference("localhost:5000", "x", "y"), None),
        ("[::1]:5000/x", ImageReference("[::1]:5000", "x"), None),
        ("Mirror/x", ImageReference("Mirror", "x"), None),
        ("a.b/c__d/e--f", ImageReference("a.b", "c__d/e--f"), None),
        # No registry without a dot, a port or a slash behind it.
        ("localhost:5000", ImageReference(DOCKER, "library/localhost", "5000"), "localhost:5000"),
    ],
)
def test_references(text: str, reference: ImageReference, familiar: str | None) -> None:
    parsed = ImageReference.parse(text)
    assert parsed == reference
    assert parsed.familiar == (familiar or text)
    assert ImageReference.parse(str(parsed)) == parsed
    assert parsed.name == f"{reference.registry}/{reference.repository}"


@pytest.mark.parametrize(
    "text",
    ["", "Nginx", "a/B", "a___b", "-a", "a..b", "nginx:", "nginx:-x", "nginx:" + "t" * 129, "nginx@",
     "nginx@sha256:12", "nginx@md5:" + "a" * 32, f"nginx@{SHA.upper()}", "/nginx", "a//b", "x y",
     "nginx\n", "a/" + "b" * 256, "b2" * 32],
)  # fmt: skip
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(ValueError, match=r"image|digest"):
        ImageReference.parse(text)


parts = st.from_regex(r"[a-z0-9]+([._-][a-z0-9]+){0,2}", fullmatch=True)


@given(
    st.sampled_from([DOCKER, "quay.io", "localhost:5000", "a-b.example"]),
    st.lists(parts, min_size=2, max_size=3).map("/".join),
    st.none() | st.from_regex("[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True),
    st.none() | st.just(SHA),
)
def test_round_trip(registry: str, repository: str, tag: str | None, digest: str | None) -> None:
    reference = ImageReference(registry, repository, tag, digest)
    assert ImageReference.parse(str(reference)) == reference


PAUSE = ImageReference("registry.k8s.io", "pause", "3.10")
WEB = ImageReference("quay.io", "shop/web", None, SHA)
CONTAINERD = "io.kubernetes.cri.image-name"
CRIO = "io.kubernetes.cri-o."


@pytest.mark.parametrize(
    ("container", "image"),
    [
        # containerd 2.4, with NRI 0.12.3.
        (
            Container(
                image=Image(name="registry.k8s.io/pause:3.10", digest=SHA, config_digest=ID),
                annotations={CONTAINERD: "registry.k8s.io/pause:3.9"},
            ),
            ContainerImage(PAUSE, SHA, ID),
        ),
        # containerd before that.
        (Container(annotations={CONTAINERD: "registry.k8s.io/pause:3.10"}), ContainerImage(PAUSE)),
        (Container(annotations={CONTAINERD: ID}), ContainerImage(None, None, ID)),
        # CRI-O 1.34: the kubelet asks by digest, the name has a tag, ImageRef is the id.
        (
            Container(
                annotations={
                    f"{CRIO}Image": str(WEB),
                    f"{CRIO}ImageName": "registry.k8s.io/pause:3.10",
                    f"{CRIO}ImageRef": ID[7:],
                }
            ),
            ContainerImage(PAUSE, SHA, ID),
        ),
        # An image that was asked for by its id and has no name.
        (
            Container(annotations={f"{CRIO}Image": ID[7:], f"{CRIO}ImageName": "", f"{CRIO}ImageRef": ID[7:]}),
            ContainerImage(None, None, ID),
        ),
        # Old releases have a name with digest in ImageRef.
        (Container(annotations={f"{CRIO}ImageRef": str(WEB)}), ContainerImage(WEB, SHA)),
        (Container(annotations={CONTAINERD: "no name"}), ContainerImage()),
        (Container(), ContainerImage()),
    ],
)  # fmt: skip
def test_the_image_of_a_container(container: Container, image: ContainerImage) -> None:
    assert container_image(container) == image
