from __future__ import annotations

import pytest

from nri_sync.api import Version, infer_nri_version, runtime_nri_version

__all__: list[str] = []

APRIL_2023 = "v0.3.1-0.20230504231226-94185418e253"


def test_versions_in_order() -> None:
    texts = [
        "v1.0.0-0",
        "v1.0.0-1",
        "v1.0.0-10",
        "v1.0.0-alpha",
        "v1.0.0-alpha.1",
        "v1.0.0-alpha.beta",
        "v1.0.0-beta.2",
        "v1.0.0-beta.11",
        "v1.0.0-rc.1",
        "v1.0.0",
        "v1.0.9",
        "v1.0.10",
        "v1.10.0",
        "v2.0.0",
    ]
    versions = [Version.parse(text) for text in texts]
    assert versions == sorted(versions)
    assert len(set(versions)) == len(texts)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("v2", "2.0.0"),
        ("2.1", "v2.1.0"),
        ("1.2.3+build.5", "1.2.3"),
        ("v2.2.0-225-ge9dc15b7a.m", "2.2.0"),
        ("2.2.0-1-gABC", "2.2.0"),
    ],
)
def test_equal_versions(left: str, right: str) -> None:
    assert Version.parse(left) == Version.parse(right)


def test_a_description_after_a_pre_release_is_a_pre_release() -> None:
    assert Version.parse("v2.2.0-rc.1-225-ge9dc15b7a") < Version.parse("v2.2.0")
    assert Version.parse("v2.2.0-225-ge9dc15b7a+x") < Version.parse("v2.2.0")


@pytest.mark.parametrize(
    "text",
    [
        *("", "v", "latest", "V1.2.3", "v02.2.0", "1.2.3.4", "1.2.", "1.2-rc1", "v1+x", "-1.2.3"),
        *("1.2.3-", "1.2.3-01", "1.2.3-a..b", "1.2.3+", "1.2.3 ", "1.2.3\n"),
        # A digit of another alphabet.
        "\u0661.2.3",
    ],
)
def test_no_versions(text: str) -> None:
    with pytest.raises(ValueError, match=r"version|needs three numbers|leading zero"):
        Version.parse(text)


@pytest.mark.parametrize(
    ("runtime", "version", "nri"),
    [
        ("containerd", "1.7.0", "v0.3.0"),
        ("containerd", "1.7.13", "v0.4.0"),
        ("containerd", "1.7.15", "v0.6.0"),
        ("containerd", "1.7.25", "v0.6.1"),
        ("containerd", "1.7.26", "v0.8.0"),
        ("containerd", "2", "v0.8.0"),
        ("containerd", "2.1.99", "v0.8.0"),
        ("containerd", "2.2.0-rc.1", "v0.8.0"),
        ("containerd", "2.2", "v0.10.0"),
        ("containerd", "2.2.0-225-ge9dc15b7a.m", "v0.10.0"),
        ("containerd", "2.2.0-225-ge9dc15b7a.m+x", "v0.8.0"),
        ("containerd", "2.2.1", "v0.11.0"),
        ("containerd", "3.0.0", "v0.11.0"),
        ("containerd", "1.6.9", None),
        ("containerd", "1.7.0-rc.1", None),
        ("containerd", "02.2.0", None),
        ("containerd", "", None),
        ("cri-o", "1.26.1", "v0.2.0"),
        ("cri-o", "1.26.3", "v0.3.0"),
        ("cri-o", "1.26.9", APRIL_2023),
        ("cri-o", "1.27.0", "v0.3.0"),
        ("cri-o", "1.28.11", APRIL_2023),
        ("cri-o", "1.29.1", "v0.5.0"),
        ("cri-o", "1.30.14", "v0.6.0"),
        ("cri-o", "1.31.0", "v0.6.1"),
        ("cri-o", "1.32.12", "v0.9.0"),
        ("cri-o", "1.33.8", "v0.9.1-0.20250219030224-e597e7849f24"),
        ("cri-o", "1.34.0", "v0.9.1-0.20250219030224-e597e7849f24"),
        ("cri-o", "1.34.2", "v0.10.0"),
        ("cri-o", "1.36.0", "v0.11.0"),
        ("Containerd", "2.2.0", None),
        ("crio", "1.34.0", None),
        ("", "2.2.0", None),
    ],
)
def test_inference_with_and_without_v(runtime: str, version: str, nri: str | None) -> None:
    assert infer_nri_version(runtime, version) == nri
    assert infer_nri_version(runtime, f"v{version}") == nri


@pytest.mark.parametrize("told", ["", "(devel)", "0.0.0-unknown"])
def test_a_runtime_that_tells_nothing(told: str) -> None:
    assert runtime_nri_version(told, "cri-o", "1.35.0") == "v0.11.0"
    assert runtime_nri_version(told, "podman", "5.0.0") is None


def test_a_runtime_that_tells() -> None:
    assert runtime_nri_version("v0.12.1", "containerd", "1.7.0") == "v0.12.1"
