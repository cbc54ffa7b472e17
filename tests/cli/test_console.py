"""The output of commands, for people and for programs."""

from __future__ import annotations

import argparse
import io
import json

import pytest
from rich.text import Text

from nri_sync.cli.console import add_output_options, console, print_each, print_whole

__all__: list[str] = []


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def printed(stream: io.StringIO, *options: str) -> str:
    parser = argparse.ArgumentParser()
    add_output_options(parser)
    console(parser.parse_args(options), stream).print(Text("[red] x", style="red"))
    return stream.getvalue()


def test_a_terminal_has_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[31m" in printed(Terminal())
    assert "\x1b[31m" not in printed(Terminal(), "--color", "never")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[31m" not in printed(Terminal())


def test_a_pipe_has_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert printed(io.StringIO()) == "[red] x\n"
    assert "\x1b[31m" in printed(io.StringIO(), "--color", "always")


def test_lines_are_not_folded_in_a_pipe() -> None:
    stream = io.StringIO()
    console(argparse.Namespace(), stream).print(Text("x " * 500))
    assert stream.getvalue().count("\n") == 1


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_each({"name": "ü"}, "json")
    print_whole([1], "json")
    first, rest = capsys.readouterr().out.split("\n", 1)
    assert (json.loads(first), json.loads(rest)) == ({"name": "ü"}, [1])


def test_nothing_is_folded_in_a_pipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    console(argparse.Namespace()).print("word " * 200, soft_wrap=False)
    assert capsys.readouterr().out.count("\n") == 1


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_values_for_programs(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    import yaml

    value = {"name": "caf\u00e9\x1b", "list": [1, None]}
    print_whole(value, form)
    text = capsys.readouterr().out
    assert text.isascii()
    assert yaml.safe_load(text) == value
    print_each(value, form)
    print_each(value, form)
    text = capsys.readouterr().out
    documents = text.splitlines() if form == "json" else text.split("---\n")[1:]
    assert [yaml.safe_load(document) for document in documents] == [value, value]
