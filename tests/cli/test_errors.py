"""The error that ends a command."""

from __future__ import annotations

from nri_sync import kit
from nri_sync.cli.errors import CommandError, ExitCode

__all__: list[str] = []


def test_the_exit_codes_of_plugins_as_programs_are_among_them() -> None:
    codes = {code.name: int(code) for code in ExitCode}
    assert {code.name: int(code) for code in kit.ExitCode}.items() <= codes.items()


def test_an_error_has_its_code() -> None:
    error = CommandError("pod.yaml: not there", ExitCode.INPUT)
    assert (str(error), error.code) == ("pod.yaml: not there", ExitCode.INPUT)
