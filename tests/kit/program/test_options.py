"""The options: flags over variables over defaults, and the messages for wrong ones."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from nri_sync.kit import Options, add_options

__all__: list[str] = []


def parse(*arguments: str, environ: Any = None, **defaults: Any) -> Options:
    parser = argparse.ArgumentParser(prog="plugin")
    parser.add_argument("--other", default="x")
    add_options(parser, environ=environ or {}, **defaults)
    return Options.of(parser.parse_args(arguments))


def test_defaults() -> None:
    assert parse() == Options()
    assert parse(name="a", idx=5) == Options(name="a", idx="05")


GIVEN = [
    ("name", "NRI_PLUGIN_NAME", "b", "b"),
    ("idx", "NRI_PLUGIN_IDX", "42", "42"),
    ("socket", "NRI_SYNC_SOCKET", "/s", "/s"),
    ("config", "NRI_SYNC_CONFIG", "c.toml", "c.toml"),
    ("grace", "NRI_SYNC_GRACE", "1m", 60.0),
    ("switch-interval", "NRI_SYNC_SWITCH_INTERVAL", "2ms", 0.002),
    ("switch-interval", "NRI_SYNC_SWITCH_INTERVAL", "0s", 0.0),
    ("health-address", "NRI_SYNC_HEALTH_ADDRESS", "127.0.0.1:0", "127.0.0.1:0"),
    ("health-file", "NRI_SYNC_HEALTH_FILE", "f", "f"),
    ("log-level", "NRI_SYNC_LOG_LEVEL", "WARNING", "warning"),
    ("log-format", "NRI_SYNC_LOG_FORMAT", "json", "json"),
    ("dump", "NRI_SYNC_DUMP", "createcontainer", "createcontainer"),
]


@pytest.mark.parametrize(("flag", "variable", "text", "value"), GIVEN, ids=str)
def test_flags_and_variables(flag: str, variable: str, text: str, value: Any) -> None:
    field = flag.replace("-", "_")
    defaults = {"name": "a", "idx": 1}
    for options in (
        parse(f"--{flag}", text, environ={variable: "wrong"}, **defaults),
        parse(environ={variable: text}, **defaults),
    ):
        found = getattr(options, field)
        assert found == value
        assert type(found) is type(value)
    assert parse(environ={variable: ""}, **defaults) == parse(**defaults)


@pytest.mark.parametrize("flag", ["reconnect", "retry-first", "traceback"])
def test_switches(flag: str) -> None:
    field = flag.replace("-", "_")
    variable = f"NRI_SYNC_{field.upper()}"
    assert getattr(parse(f"--{flag}", environ={variable: "0"}), field) is True
    for text, value in (("1", True), ("yes", True), ("0", False), ("Off", False)):
        assert getattr(parse(environ={variable: text}), field) is value
    assert parse("--no-reconnect", environ={"NRI_SYNC_RECONNECT": "1"}).reconnect is False


def test_verbose() -> None:
    assert parse("-v", "--log-level", "error") == Options(log_level="debug")
    assert parse("-vv") == Options(log_level="debug", traceback=True)


WRONG = [
    (
        "name",
        "a b",
        "plugin name 'a b' has the character ' '; letters, digits and _.+- are allowed",
    ),
    ("idx", "5", "plugin index '5' is not two decimal digits, such as '05'"),
    ("grace", "soon", '\'soon\' is not a duration such as "1.5s", "2m30s" or "300ms"'),
    ("grace", "-1s", "must not be negative"),
    ("switch-interval", "1us", "must be 0s, or from 10us to 1s"),
    ("switch-interval", "2s", "must be 0s, or from 10us to 1s"),
    ("switch-interval", "-1ms", "must not be negative"),
    ("health-address", "here", "'here' is not an address; for example: 127.0.0.1:8080"),
    ("log-level", "loud", "expected one of debug, info, warning, error, critical, not 'loud'"),
    ("log-format", "xml", "expected one of text, json, not 'xml'"),
    ("dump", "nothing", "unknown event 'nothing'"),
]


@pytest.mark.parametrize(("flag", "text", "told"), WRONG, ids=str)
def test_an_invalid_value_is_refused(
    flag: str, text: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(f"--{flag}={text}")
    assert ended.value.code == 2
    assert f"plugin: error: argument --{flag}: {told}" in capsys.readouterr().err
    prefix = "NRI_PLUGIN_" if flag in ("name", "idx") else "NRI_SYNC_"
    variable = prefix + flag.upper().replace("-", "_")
    with pytest.raises(SystemExit):
        parse(environ={variable: text})
    assert f"argument --{flag}: {variable}={text}: {told}" in capsys.readouterr().err


def test_wrong_variables_do_no_harm_to_commands_that_do_not_use_them() -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    add_options(commands.add_parser("run"), environ={"NRI_SYNC_GRACE": "soon"})
    commands.add_parser("version")
    parser.parse_args(["version"])


def test_an_invalid_variable_of_a_switch_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(environ={"NRI_SYNC_TRACEBACK": "maybe"})
    assert "NRI_SYNC_TRACEBACK=maybe: expected 1 or 0" in capsys.readouterr().err


@pytest.mark.parametrize("defaults", [{"name": "a b"}, {"idx": 100}])
def test_defaults_that_no_runtime_accepts(defaults: Any) -> None:
    with pytest.raises(ValueError, match=r"plugin (name|index)"):
        parse(**defaults)


def test_the_help_names_the_variables() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser, environ={}, name="a", idx="10")
    text = " ".join(parser.format_help().split())
    for _, variable, _, _ in GIVEN:
        assert f"[{variable}]" in text
    assert "(default: 10)" in text
