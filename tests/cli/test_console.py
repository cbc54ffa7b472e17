"""What is printed for people, and what for programs."""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys

import pytest
from rich.text import Text

from nri_sync.cli.console import add_output_options, console, print_json

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


def test_what_is_printed_is_not_folded_in_a_pipe() -> None:
    stream = io.StringIO()
    console(argparse.Namespace(), stream).print(Text("x " * 500))
    assert stream.getvalue().count("\n") == 1


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"name": "ü"}, indent=None)
    print_json([1])
    first, rest = capsys.readouterr().out.split("\n", 1)
    assert (json.loads(first), json.loads(rest)) == ({"name": "ü"}, [1])


def test_without_its_packages_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['rich'] = None; sys.modules['rich.console'] = None\n"
        "from nri_sync.cli.errors import CommandError\n"
        "try:\n"
        "    import nri_sync.cli.console\n"
        "except CommandError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True
    )
    assert "pip install 'nri_sync[cli]'" in done.stdout
