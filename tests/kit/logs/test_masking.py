"""Secrets that logs and recordings leave out."""

from __future__ import annotations

import time

import pytest

from nri_sync import api
from nri_sync.kit.logs.masking import MASKED, NO_MASK, Mask

__all__: list[str] = []


@pytest.mark.parametrize(
    "name",
    [
        "PASSWORD", "DB_PASSWORD_FILE", "PGPASSWORD",
        "MYSQL_PWD", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "GITHUB_TOKEN",
        "apiKey", "API_KEY", "x-api-key",
        "TLS_PRIVATE_KEY", "ENCRYPTION_KEY", "GOOGLE_APPLICATION_CREDENTIALS", "SENTRY_DSN",
        "ConnectionString", "Proxy-Authorization", "kubectl.kubernetes.io/last-applied-configuration",
    ],
)  # fmt: skip
def test_names_of_secrets(name: str) -> None:
    assert Mask().value(name, "hunter2") == MASKED


@pytest.mark.parametrize(
    "name",
    [
        "PATH",
        "PWD",
        "OLDPWD",
        "AUTHOR",
        "KEYBOARD",
        "MONKEY",
        "COMPASS",
        "HOME",
        "io.kubernetes.pod.name",
        "",
    ],
)
def test_other_names(name: str) -> None:
    assert Mask().value(name, "hunter2") == "hunter2"


def test_values() -> None:
    mask = Mask()
    assert mask.value("URL", "postgres://me:hunter2@db/x") == f"postgres://me:{MASKED}@db/x"
    assert mask.value("URL", "https://example.com:80/a@b") == "https://example.com:80/a@b"
    assert mask.value("PASSWORD", "") == "", "that there is none is no secret"


def test_arguments() -> None:
    given = [
        "mysqld",
        "--password=x=y",
        "--token",
        "abc",
        "--token",
        "-v",
        "--api-key",
        "k",
        "PGPASSWORD=q",
        "--port",
        "1",
        "http://a:b@c",
    ]
    assert list(Mask().items(given)) == [
        "mysqld", f"--password={MASKED}", "--token", MASKED, "--token", "-v", "--api-key", MASKED,
        f"PGPASSWORD={MASKED}", "--port", "1", f"http://a:{MASKED}@c",
    ]  # fmt: skip


def test_own_patterns() -> None:
    mask = Mask(["DB_*", "pin"])
    assert list(mask.items(["db_host=x", "PIN=1", "PINS=1", "PASSWORD=p"])) == [
        f"db_host={MASKED}", f"PIN={MASKED}", "PINS=1", "PASSWORD=p",
    ]  # fmt: skip
    with pytest.raises(TypeError, match="list of texts"):
        Mask("pin")


def test_without_patterns_all_stays() -> None:
    container = message()
    assert NO_MASK.message(container) is container
    assert list(NO_MASK.items(["--password=x"])) == ["--password=x"]
    assert NO_MASK.value("PASSWORD", "http://a:b@c") == "http://a:b@c"


def message() -> api.Container:
    hook = api.Hook(path="/h", env=["TOKEN=t0p"], args=["--token=t0p"])
    container = api.Container(
        env=["A=1", "TOKEN=t0p"],
        args=["run", "--password", "t0p"],
        annotations={"a": "1", "secret": "t0p"},
        labels={"token": "t0p"},
        hooks=api.Hooks(prestart=[hook]),
    )
    container.linux.sysctl["net.core.somaxconn"] = "1"
    return container


def test_messages() -> None:
    adjustment = (
        api.Adjustment().add_env("TOKEN", "t0p").add_env("A", "1").add_annotation("my-token", "t0p")
    )
    before = message()
    for made in (before, adjustment.message):
        masked = Mask().message(made)
        assert "t0p" not in str(masked)
        assert MASKED in str(masked)
        assert "t0p" in str(made), "it is a copy"
    masked = Mask().message(before)
    assert list(masked.env) == ["A=1", f"TOKEN={MASKED}"]
    assert dict(masked.annotations) == {"a": "1", "secret": MASKED}
    assert masked.linux.sysctl["net.core.somaxconn"] == "1"
    assert [(each.key, each.value) for each in Mask().message(adjustment.message).env] == [
        ("TOKEN", MASKED), ("A", "1"),
    ]  # fmt: skip


def test_nested_messages_and_lists_of_them() -> None:
    request = api.nri_pb2.SynchronizeRequest(
        containers=[message(), api.Container(id="c2", env=["PASSWORD=t0p"])]
    )
    masked = Mask().message(request)
    assert "t0p" not in str(masked)
    assert masked.containers[1].id == "c2"


def test_the_work_is_linear() -> None:
    before = time.process_time()
    mask = Mask()
    for text in (
        "a" * 250_000 + "=x",
        "://" * 80_000,
        "://a:" + "b" * 250_000,
        "=" * 250_000,
        "-" * 250_000,
    ):
        list(mask.items([text, text]))
    assert time.process_time() - before < 10
