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
        "DB_PASSWD", "PASS", "rootPass", "SSHPASS", "KEYSTOREPASS", "passcode", "sshKey", "signingKey",
        "AccountKey", "MASTERKEY", "TS_AUTHKEY", "basicAuth", "REDISCLI_AUTH", "JWT", "BEARER", "GITHUB_PAT",
        "AWS_CREDS", "DSN", "DOCKER_AUTH_CONFIG", "dockerconfigjson",
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
    assert mask.value("CLIENT_CERT_AUTH", "true") == "true"
    assert mask.value("CLIENT_CERT_AUTH", "true1") == MASKED


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://h/?token=hunter2&page=2", "https://h/?token=(masked)&page=2"),
        ("Server=db;Password=hunter2;Port=1", "Server=db;Password=(masked);Port=1"),
        ("host=db password='hunter 2' user=me", "host=db password='(masked)' user=me"),
        ("AccountName=a;AccountKey=hunter2==;Port=1", "AccountName=a;AccountKey=(masked);Port=1"),
        ("Authorization: Bearer hunter2", "Authorization: (masked)"),
        ("Host: a\nX-Api-Key: hunter2\nA: b", "Host: a\nX-Api-Key: (masked)\nA: b"),
        ('{"apiKey": "hunter2", "a": "b"}', '{"apiKey": "(masked)", "a": "b"}'),
        ("-Xmx1g -Ddb.password=hunter2 -Da=b", "-Xmx1g -Ddb.password=(masked) -Da=b"),
        ("PGPASSWORD=hunter2 psql -h db", "PGPASSWORD=(masked) psql -h db"),
        ("postgres://me:hunter@2@db/x", "postgres://me:(masked)@db/x"),
        ("postgres://me:hunter=2@db/x?a=b", "postgres://me:(masked)@db/x?a=b"),
        ("user = me, password = hunter2", "user = me, password = (masked)"),
        ("time: 12:30, author=me", "time: 12:30, author=me"),
        ("auth=true&token=False", "auth=true&token=False"),
        ("auth='true' token=falsely", "auth='true' token=(masked)"),
        ("auth: true, password: trueish", "auth: true, password: (masked)"),
    ],
)  # fmt: skip
def test_names_and_urls_in_a_text(text: str, shown: str) -> None:
    mask = Mask()
    assert mask.value("TEXT", text) == shown
    assert list(mask.items([f"--option={text}", f"TEXT={text}"])) == [
        f"--option={shown}", f"TEXT={shown}",
    ]  # fmt: skip


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
        "postgres://a:b=c@d/e?ssl=off",
        "Authorization: Bearer b",
        "--password",
        "x=y",
    ]
    assert list(Mask().items(given)) == [
        "mysqld", f"--password={MASKED}", "--token", MASKED, "--token", "-v", "--api-key", MASKED,
        f"PGPASSWORD={MASKED}", "--port", "1", f"http://a:{MASKED}@c",
        f"postgres://a:{MASKED}@d/e?ssl=off", f"Authorization: {MASKED}", "--password", MASKED,
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
        "a=" * 125_000,
        "token='" * 40_000,
        "token: " * 40_000,
        "a \t" * 80_000,
    ):
        list(mask.items([text, text]))
    assert time.process_time() - before < 10
