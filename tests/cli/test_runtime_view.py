"""The output of ``nri-sync runtime``."""

from __future__ import annotations

import argparse
import json
import logging

import pytest

from nri_sync.cli.runtime_view import RuntimeView, log_shown

__all__: list[str] = []


def made(output: str) -> RuntimeView:
    return RuntimeView(argparse.Namespace(output=output, all=False, color="never"))


def test_a_hint_is_for_people_only(capsys: pytest.CaptureFixture[str]) -> None:
    made("table").hint("one\ntwo")
    assert capsys.readouterr().out == "one\ntwo\n"
    made("json").hint("one")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("plugins", "line"),
    [
        (frozenset[str](), "  no plugin is connected\n"),
        (frozenset({"10-a"}), "  no plugin has subscribed to any of these events\n"),
    ],
)
def test_pods_without_a_call(
    plugins: frozenset[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made("table").round_ended(plugins)
    assert capsys.readouterr().out == line


def test_the_log_in_the_block_only(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("nri_sync.runtime.plugin")
    before = logger.level
    with log_shown(made("json")):
        logger.info("started")
    logger.warning("later")
    document = json.loads(capsys.readouterr().out)
    assert (document["event"], document["note"]) == ("log", "started")
    assert logger.level == before
