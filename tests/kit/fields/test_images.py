from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nri_sync.api import Container, Image, PodSandbox
from nri_sync.kit.fields.images import ContainerImage, ImageReference, container_image
from nri_sync.kit.fields.runtimes import RuntimeId
from nri_sync.testing import FakeRuntime, make_container, make_pod

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
        # Not a registry without a dot, a port, or a slash behind it.
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
def test_an_invalid_reference_is_refused(text: str) -> None:
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
WEB_TAG = ImageReference("quay.io", "shop/web", "1")
NAME = "io.kubernetes.cri.image-name"
CRIO = "io.kubernetes.cri-o."
DIGESTS = f"{CRIO}ImageRepoDigests"
CONTAINERD = RuntimeId("containerd", "2.1.0")
OLD_CRIO, NEW_CRIO = RuntimeId("cri-o", "1.34.0"), RuntimeId("cri-o", "1.37.0")


def crio(**notes: str) -> Container:
    return Container(annotations={f"{CRIO}{key}": value for key, value in notes.items()})


@pytest.mark.parametrize(
    ("runtime", "container", "image"),
    [
        # containerd 2.4, with NRI 0.12.3: a name of the image, and the name that the pod requests.
        (
            CONTAINERD,
            Container(
                image=Image(name="registry.k8s.io/pause:3.10", digest=SHA, config_digest=ID),
                annotations={NAME: "quay.io/shop/web:1"},
            ),
            ContainerImage(PAUSE, SHA, ID, WEB_TAG),
        ),
        # Earlier releases of containerd.
        (
            CONTAINERD,
            Container(annotations={NAME: "registry.k8s.io/pause:3.10"}),
            ContainerImage(PAUSE, requested=PAUSE),
        ),
        (CONTAINERD, Container(annotations={NAME: str(WEB)}), ContainerImage(WEB, SHA, requested=WEB)),
        (CONTAINERD, Container(annotations={NAME: ID}), ContainerImage(id=ID)),
        (CONTAINERD, Container(annotations={NAME: "no name"}), ContainerImage()),
        # CRI-O up to 1.35: the kubelet requests the digest that the pull of a tag or a digest has returned.
        (
            OLD_CRIO,
            crio(Image=str(WEB), ImageName="quay.io/shop/web:1", ImageRef=ID[7:]),
            ContainerImage(WEB_TAG, SHA, ID, None),
        ),
        # The digest is that of another name of the image.
        (
            OLD_CRIO,
            crio(Image=str(WEB), ImageName="registry.k8s.io/pause:3.10", ImageRef=ID[7:]),
            ContainerImage(PAUSE, None, ID, None),
        ),
        # No tag refers to it.
        (
            OLD_CRIO,
            crio(Image=str(WEB), ImageName=str(WEB), ImageRef=ID[7:]),
            ContainerImage(WEB, SHA, ID, WEB),
        ),
        # CRI-O from 1.36 on: the kubelet requests the id.
        (
            NEW_CRIO,
            crio(Image=ID[7:], ImageName=str(WEB), ImageRef=ID[7:], ImageRepoDigests=str(WEB)),
            ContainerImage(WEB, SHA, ID, WEB),
        ),
        # crictl requests a tag.
        (
            OLD_CRIO,
            crio(Image="quay.io/shop/web:1", ImageName="registry.k8s.io/pause:3.10"),
            ContainerImage(PAUSE, requested=WEB_TAG),
        ),
        # An image that was requested by its id and has no name.
        (OLD_CRIO, crio(Image=ID[7:], ImageName="", ImageRef=ID[7:]), ContainerImage(id=ID)),
        # Old releases have a name with digest in ImageRef.
        (OLD_CRIO, crio(ImageRef=str(WEB)), ContainerImage(WEB, SHA)),
        (OLD_CRIO, Container(), ContainerImage()),
    ],
)  # fmt: skip
def test_the_image_of_a_container(
    runtime: RuntimeId, container: Container, image: ContainerImage
) -> None:
    assert container_image(container, runtime=runtime) == image


SHA_2, ID_2 = "sha256:" + "c3" * 32, "sha256:" + "d4" * 32
WEB_2 = ImageReference("quay.io", "shop/web", None, SHA_2)


@pytest.mark.parametrize(
    ("runtime", "container", "image"),
    [
        # ImageName, then Image, then ImageRef.
        (OLD_CRIO, crio(Image=str(WEB_TAG), ImageRef=str(PAUSE)), ContainerImage(WEB_TAG, requested=WEB_TAG)),
        (OLD_CRIO, crio(ImageName=str(WEB), Image=str(WEB_2)), ContainerImage(WEB, SHA, requested=WEB_2)),
        (
            OLD_CRIO,
            crio(ImageName=str(WEB_TAG), Image=str(WEB_2), ImageRef=str(WEB)),
            ContainerImage(WEB_TAG, SHA_2),
        ),
        (
            NEW_CRIO,
            crio(ImageName=str(WEB_TAG), ImageRef=str(WEB_2), ImageRepoDigests=str(WEB)),
            ContainerImage(WEB_TAG, SHA_2),
        ),
        (
            NEW_CRIO,
            crio(ImageName=str(WEB_TAG), ImageRepoDigests=f"{WEB_2},{WEB}"),
            ContainerImage(WEB_TAG, SHA_2),
        ),
        # The image of the node, then the requested one.
        (OLD_CRIO, crio(Image=ID_2[7:], ImageRef=ID[7:]), ContainerImage(id=ID)),
        # First the field, and the digest in its name.
        (CONTAINERD, Container(image=Image(name=str(WEB), digest=SHA_2)), ContainerImage(WEB, SHA)),
        (CONTAINERD, Container(image=Image(name=ID_2, config_digest=ID)), ContainerImage(id=ID)),
        (
            CONTAINERD,
            Container(image=Image(name=str(WEB_TAG)), annotations={NAME: str(WEB_2)}),
            ContainerImage(WEB_TAG, None, None, WEB_2),
        ),
    ],
)  # fmt: skip
def test_keys_that_contradict_each_other_have_an_order(
    runtime: RuntimeId, container: Container, image: ContainerImage
) -> None:
    assert container_image(container, runtime=runtime) == image


ALL_KEYS = {
    NAME: str(WEB),
    f"{CRIO}Image": str(WEB),
    f"{CRIO}ImageName": str(WEB),
    f"{CRIO}ImageRef": ID[7:],
    DIGESTS: str(WEB),
}


@pytest.mark.parametrize("runtime", [RuntimeId("docker", "29.0"), RuntimeId(), None])
def test_no_annotation_counts_on_another_runtime_or_on_an_unknown_one(
    runtime: RuntimeId | None,
) -> None:
    assert container_image(Container(annotations=ALL_KEYS), runtime=runtime) == ContainerImage()


@pytest.mark.parametrize("keys", [{key: ALL_KEYS[key]} for key in ALL_KEYS])
def test_keys_of_the_other_runtime_are_the_authors(keys: dict[str, str]) -> None:
    container = Container(annotations=keys)
    other = OLD_CRIO if NAME in keys else CONTAINERD
    assert container_image(container, runtime=other) == ContainerImage()


def test_no_annotation_stands_in_for_a_name_that_cannot_be_parsed() -> None:
    container = Container(image=Image(name="no name", digest=SHA), annotations={NAME: str(WEB)})
    assert container_image(container, runtime=CONTAINERD).reference is None


@pytest.mark.parametrize(
    ("version", "counts"),
    [("1.33.13", False), ("1.34.9", False), ("1.34.10", True), ("1.35.4", False), ("1.35.5", True),
     ("1.36.0", False), ("1.36.1", True), ("1.37.0", True), ("1.38.2", True), ("2.0.0", True), ("", False)],
)  # fmt: skip
def test_repo_digests_count_where_the_release_writes_them(version: str, counts: bool) -> None:
    other = f"registry.k8s.io/pause@sha256:{'c3' * 32}"
    names = {"ImageName": "quay.io/shop/web:1", "ImageRepoDigests": f"{other},{WEB}"}
    image = container_image(crio(**names), runtime=RuntimeId("cri-o", version))
    assert image == ContainerImage(WEB_TAG, SHA if counts else None)


@pytest.mark.parametrize(
    ("of_pod", "digest"),
    [({}, SHA), ({DIGESTS: str(WEB)}, None), ({DIGESTS: "quay.io/shop/web@sha256:x"}, SHA)],
)
def test_repo_digests_that_the_pod_has_are_its_authors(
    of_pod: dict[str, str], digest: str | None
) -> None:
    """The pod shows it for any release: CRI-O does not write the key for an image without digests."""
    container = crio(ImageName="quay.io/shop/web:1", ImageRepoDigests=str(WEB))
    for runtime in (OLD_CRIO, NEW_CRIO):
        image = container_image(container, PodSandbox(annotations=of_pod), runtime=runtime)
        assert image.digest == digest


@given(st.dictionaries(st.sampled_from([NAME, DIGESTS, "image", f"{CRIO}x"]), st.just(str(WEB))))
def test_an_author_changes_nothing_on_crio(notes: dict[str, str]) -> None:
    """A pod has all the keys in its annotations that CRI-O 1.34 does not write."""
    own = crio(Image=ID[7:], ImageName="registry.k8s.io/pause:3.10", ImageRef=ID[7:])
    expected = container_image(own, runtime=OLD_CRIO)
    forged = Container(annotations={**notes, **own.annotations})
    for pod in (None, PodSandbox(annotations=notes)):
        assert container_image(forged, pod, runtime=OLD_CRIO) == expected


def test_in_a_handler_the_runtime_is_known() -> None:
    found = []

    class Plugin:
        def create_container(self, pod: PodSandbox, container: Container) -> None:
            found.append(container_image(container, pod).reference)

    for name, version in (("cri-o", "1.34.0"), ("containerd", "2.1.0")):
        with (
            FakeRuntime(name, version, nri_version="v0.9.0") as runtime,
            runtime.run_plugin(Plugin()),
        ):
            pod = make_pod()
            runtime.run_pod(pod)
            container = make_container(pod)
            container.ClearField("image")
            container.annotations[NAME] = str(WEB)
            container.annotations[f"{CRIO}ImageName"] = str(PAUSE)
            runtime.create_container(pod, container)
    assert found == [PAUSE, WEB]
