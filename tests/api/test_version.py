from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nri_sync.api import EventMask, Version, infer_nri_version, runtime_nri_version, valid_events

__all__: list[str] = []

APRIL_2023 = "v0.3.1-0.20230504231226-94185418e253"
FEBRUARY_2025 = "v0.9.1-0.20250219030224-e597e7849f24"


def test_versions_in_order() -> None:
    texts = [
        "v0.9.1-0.20250219030224-e597e7849f24",
        "v0.9.1",
        "v1.0.0-alpha",
        "v1.0.0-alpha.1",
        "v1.0.0-alpha.beta",
        "v1.0.0-beta.2",
        "v1.0.0-beta.11",
        "v1.0.0-rc.1",
        "v1.0.0-rc.1-225-ge9dc15b7a",
        "v1.0.0-rc.2",
        "v1.0.0~rc10-1",
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
        ("V1.2.3", "1.2.3"),
        ("1:1.7.24~ds1-10", "1.7.24"),
        ("2.1.0+really1.7.24-1", "1.7.24"),
        ("2.1-k3s1", "2.1.0"),
        ("2.1-rc1", "2.1.0-rc1"),
        ("1.2.3.4", "1.2.3"),
        ("1.2.3+build.5", "1.2.3"),
        ("1.2.3+dev", "1.2.3"),
        ("v2.2.0-225-ge9dc15b7a.m", "2.2.0"),
        ("v2.2.0-225-ge9dc15b7a+x", "2.2.0"),
        ("2.2.0-1-gABC", "2.2.0"),
        ("2.2.0-rc.1+x", "2.2.0-rc.1"),
        ("2.2.0~rc1", "2.2.0-rc.1"),
        ("2.2.0_rc1", "2.2.0-RC1"),
    ],
)
def test_equal_versions(left: str, right: str) -> None:
    assert Version.parse(left) == Version.parse(right)


@pytest.mark.parametrize(
    "rest",
    [
        *("-rc.1", "-rc1", "~rc1-1", "~rc.2+ds1-1", "rc1", "_rc1", "-RC1", "-beta.0", "-alpha"),
        *("-rc.1-225-ge9dc15b7a", "-dev", "-dev.20250102", "-nightly.20250102"),
        *("-0.rc1.fc44", "-0.1.rc1.el9", "-0.23.dev.rhaos4.2.gitc41de67.el8", "-pre", "-snapshot"),
        *("~git20250102.abcdef-1", "-0.20250219030224-e597e7849f24", "-daily", "-unstable+x"),
        *("-20250219030224-e597e7849f24", "-rc.1.0.20250219030224-e597e7849f24"),
    ],
)
def test_pre_releases(rest: str) -> None:
    version = Version.parse(f"v2.2.0{rest}")
    assert not version.released
    assert Version.parse("2.1.99") < version < Version.parse("2.2.0")


@pytest.mark.parametrize(
    "rest",
    [
        *("", "-0", "-1", "-01", "-1.el9", "-0ubuntu1~24.04.1", "~ds1", "-k3s1", "-k3s2.27", "-"),
        *("-225-ge9dc15b7a", "-deb13u1", "-1.git1234", "-2.rhaos4.21.git0dev123.el9", "-devuan1"),
        # A packager's candidate of a release, and a word that only begins like a known one.
        *("-k3s1-rc1", "-1~rc1", "-0ubuntu1~dev1", "-rcos1", "-prefix", "+rc.1", "-alpine3.20"),
        *("-a..b", "+", "-d2iq.1", "-tke.2", "-bd1.34", "-4.aa4f43777b7.el8", "-dirty", ".m"),
    ],
)
def test_suffixes_of_packagers(rest: str) -> None:
    assert Version.parse(f"v2.2.0{rest}") == Version(2, 2, 0)


@given(st.from_regex(r"[-~+][0-9][!-~]{0,30}", fullmatch=True))
def test_a_number_begins_a_packagers_revision(rest: str) -> None:
    """Except RPM's 0., Go's pseudo-versions and Debian's +really."""
    if not re.match(r"-0[.-]|.*[0-9]{14}-|.*\+really", rest):
        assert Version.parse(f"2.2.0{rest}") == Version.parse("2.2.0")


@pytest.mark.parametrize(
    "text",
    [
        *("", "v", "latest", "unknown", "v02.2.0", "1.02.0", "1.7.028", "1.2.", "v1+x", "-1.2.3"),
        *("1.2.3 ", "1.2.3\n", " 1.2.3", "1.2.3-\x1b[0m", "1.2.3-\xe9"),
        # Commits.
        *("e9dc15b7a", "9dc15b7ae", "1-gabc"),
        # A digit of another alphabet.
        "\u0661.2.3",
        # A text that would take long to parse.
        "1.2." + "3" * 300,
    ],
)
def test_no_versions(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a version such as") as raised:
        Version.parse(text)
    assert len(str(raised.value)) < 200
    assert "\x1b" not in str(raised.value)


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
        ("containerd", "2.2", "v0.10.0"),
        ("containerd", "2.2.0-225-ge9dc15b7a.m", "v0.10.0"),
        ("containerd", "2.2.0-225-ge9dc15b7a.m+x", "v0.10.0"),
        ("containerd", "2.2.1", "v0.11.0"),
        ("containerd", "2.3.7", "v0.12.0"),
        ("containerd", "2.4.2", "v0.12.3"),
        ("containerd", "3.0.0", "v0.12.3"),
        ("containerd", "1.6.9", None),
        ("containerd", "02.2.0", None),
        ("containerd", "", None),
        # The module files of pre-releases name these releases.
        ("containerd", "1.7.0-beta.0", None),
        ("containerd", "1.7.0-beta.1", "v0.2.0"),
        ("containerd", "1.7.0-rc.1", "v0.3.0"),
        ("containerd", "2.0.0-beta.2", "v0.5.0"),
        ("containerd", "2.0.0-rc.0", "v0.6.0"),
        ("containerd", "2.0.0-rc.5", "v0.6.1"),
        ("containerd", "2.0.0-rc.6", "v0.7.0"),
        ("containerd", "2.1.0-beta.0", "v0.8.0"),
        ("containerd", "2.2.0-beta.0", "v0.10.0"),
        ("containerd", "2.2.0-rc.1", "v0.10.0"),
        ("cri-o", "1.26.1", "v0.2.0"),
        ("cri-o", "1.26.3", "v0.3.0"),
        ("cri-o", "1.26.9", APRIL_2023),
        ("cri-o", "1.27.0", "v0.3.0"),
        ("cri-o", "1.28.11", APRIL_2023),
        ("cri-o", "1.29.1", "v0.5.0"),
        ("cri-o", "1.30.14", "v0.6.0"),
        ("cri-o", "1.31.0", "v0.6.1"),
        ("cri-o", "1.32.12", "v0.9.0"),
        ("cri-o", "1.33.8", FEBRUARY_2025),
        ("cri-o", "1.34.0", FEBRUARY_2025),
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


# Versions as nodes and packages show them.
CONTAINERD_OF_DISTRIBUTIONS = [
    # Debian, and Raspberry Pi OS
    ("1.6.20~ds1", None),
    ("1.6.20~ds1-1+b1", None),
    ("1.7.24~ds1", "v0.6.1"),
    ("1.7.24~ds1-6+b4", "v0.6.1"),
    ("1.7.24~ds1-10~deb13u1", "v0.6.1"),
    ("2.1.4~ds2-4", "v0.8.0"),
    # Ubuntu
    ("1.6.12-0ubuntu1~22.04.3", None),
    ("1.7.2-0ubuntu1~22.04.1", "v0.3.0"),
    ("1.7.12-0ubuntu2~22.04.1", "v0.4.0"),
    ("1.7.12-0ubuntu4.1", "v0.4.0"),
    ("1.7.20-0ubuntu1~24.04.2", "v0.6.1"),
    ("1.7.24-0ubuntu1~22.04.1", "v0.6.1"),
    ("1.7.27-0ubuntu1~22.04.1", "v0.8.0"),
    ("1.7.28-0ubuntu1~24.04.1", "v0.8.0"),
    ("2.1.3-0ubuntu3~25.10.1", "v0.8.0"),
    ("2.2.1-0ubuntu1", "v0.11.0"),
    # Docker's packages
    ("1.7.27-1", "v0.8.0"),
    ("1.7.29-1~ubuntu.24.04~noble", "v0.8.0"),
    ("2.2.0-1~debian.13~trixie", "v0.10.0"),
    ("2.2.0-2~ubuntu.24.04~noble", "v0.10.0"),
    # Fedora, Red Hat, openSUSE, Alpine
    ("2.0.5-1.el9", "v0.8.0"),
    ("1.7.25-3.1.el9", "v0.6.1"),
    ("2.2.0-1.fc44", "v0.10.0"),
    ("1.7.0~rc1-1", "v0.3.0"),
    ("1.7.29-150000.128.1", "v0.8.0"),
    ("2.2.0-r3", "v0.10.0"),
    ("2.0.0_rc1-r0", "v0.6.1"),
    # Amazon Linux, EKS, Bottlerocket
    ("1.7.11-1.amzn2.0.1", "v0.4.0"),
    ("1.7.27-1.eks.amzn2023.0.4", "v0.8.0"),
    ("2.2.3+unknown", "v0.11.0"),
    ("2.2.4+unknown", "v0.11.0"),
    ("1.3.7+unknown", None),
    ("1.6.20+bottlerocket", None),
    ("2.0.5+bottlerocket", "v0.8.0"),
    ("v2.1.4+bottlerocket", "v0.8.0"),
    ("2.1.6+bottlerocket", "v0.8.0"),
    ("2.2.5+bottlerocket", "v0.11.0"),
    # Azure, Azure Linux
    ("1.7.15-1", "v0.6.0"),
    ("1.7.28-1", "v0.8.0"),
    ("1.7.30-2", "v0.8.0"),
    ("1.7.31-1", "v0.8.0"),
    ("2.0.4+azure", "v0.8.0"),
    ("v2.1.4-aks.1+deb12u1", "v0.8.0"),
    ("2.0.0-14.azl3", "v0.8.0"),
    # Google
    ("1.7.28-gke.1", "v0.8.0"),
    ("2.0.7-gke.2", "v0.8.0"),
    ("1.7.27-82-ge5a462d3b", "v0.8.0"),
    # k3s, RKE2
    ("v1.7.11-k3s2.27", "v0.4.0"),
    ("1.7.15-k3s1", "v0.6.0"),
    ("1.7.23-k3s2", "v0.6.1"),
    ("1.7.27-k3s1", "v0.8.0"),
    ("2.0.0-k3s1", "v0.8.0"),
    ("2.0.5-k3s1.32", "v0.8.0"),
    ("2.1.5-k3s1.33", "v0.8.0"),
    ("v2.2.0-k3s1", "v0.10.0"),
    ("2.2.5-k3s2", "v0.11.0"),
    ("1.5.16-k3s2-1-22", None),
    # Talos, kind, k0s, Nutanix, Tencent, Baidu
    ("2.0.0-rc.5", "v0.6.1"),
    ("2.0.0-rc.6", "v0.7.0"),
    ("2.1.6", "v0.8.0"),
    ("1.7.18", "v0.6.1"),
    ("1.7.27-d2iq.1", "v0.8.0"),
    ("1.7.28-tke.2", "v0.8.0"),
    ("2.2.2-bd1.34", "v0.11.0"),
    # Custom builds
    ("1.7.28+unknown", "v0.8.0"),
    ("1.7.28.m", "v0.8.0"),
    ("2.2.0-45-g1c4457e00.m", "v0.10.0"),
    ("2.2.0-rc.1-225-ge9dc15b7a", "v0.10.0"),
    ("2.1.0-dev", "v0.8.0"),
    ("1:1.7.28-1", "v0.8.0"),
    ("2.1.0+really1.7.24-1", "v0.6.1"),
]
CRI_O_OF_DISTRIBUTIONS = [
    # OpenShift
    ("1.14.11-0.23.dev.rhaos4.2.gitc41de67.el8", None),
    ("1.25.3-5.rhaos4.12.git44a2cb2.el9", None),
    ("1.28.10-3.rhaos4.15.git368cd23.el9", APRIL_2023),
    ("1.29.6-3.rhaos4.16.gitfd433b7.el9", "v0.6.0"),
    ("1.29.8-6.rhaos4.16.gitea41abd.el9", "v0.6.0"),
    ("1.31.9-2.rhaos4.18.git0ba90a5.el9", "v0.6.1"),
    ("1.32.6-3.rhaos4.19.gitd9321ae.el9", "v0.9.0"),
    ("1.33.4-2.rhaos4.20.el9", FEBRUARY_2025),
    ("1.33.9-2.rhaos4.20.gitb9ac835", FEBRUARY_2025),
    ("1.34.1-2.rhaos4.21.git1234.el9", "v0.10.0"),
    ("1.34.4-3.rhaos4.21.el10", "v0.10.0"),
    # Oracle, Fedora, openSUSE, the project's own packages
    ("1.32.2-4.aa4f43777b7.el8", "v0.9.0"),
    ("1.34.2-1.fc43", "v0.10.0"),
    ("1.35.0-150500.1.1", "v0.11.0"),
    ("1.35.0~dev", "v0.10.0"),
    ("1.33.0-dev", "v0.9.0"),
    ("1.36.2", "v0.11.0"),
]


@pytest.mark.parametrize(
    ("runtime", "version", "nri"),
    [
        *(("containerd", version, nri) for version, nri in CONTAINERD_OF_DISTRIBUTIONS),
        *(("cri-o", version, nri) for version, nri in CRI_O_OF_DISTRIBUTIONS),
    ],
)
def test_runtimes_of_distributions(runtime: str, version: str, nri: str | None) -> None:
    assert infer_nri_version(runtime, version) == nri
    Version.parse(version)
    if nri:
        knows_validation = EventMask.VALIDATE_CONTAINER_ADJUSTMENT in valid_events(nri)
        assert knows_validation == (nri in ("v0.10.0", "v0.11.0"))


@pytest.mark.parametrize("told", ["", "(devel)", "0.0.0-unknown"])
def test_a_runtime_without_its_nri_release(told: str) -> None:
    assert runtime_nri_version(told, "cri-o", "1.35.0") == "v0.11.0"
    assert runtime_nri_version(told, "podman", "5.0.0") is None


def test_a_runtime_with_its_nri_release() -> None:
    assert runtime_nri_version("v0.12.1", "containerd", "1.7.0") == "v0.12.1"
