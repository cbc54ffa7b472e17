"""The messages about a start that failed or a session that ended."""

from __future__ import annotations

import pytest

from nri_sync.errors import ConnectionLost, ConnectionSpent, StartError, StartTimeout
from nri_sync.plugin import phases
from nri_sync.plugin.source import Source
from nri_sync.rpc.context import RequestContext

__all__: list[str] = []

SOURCE = Source(None, None, "/x.sock")


def served(since: float, handler: str = "") -> RequestContext:
    context = RequestContext("/nri.pkg/CreateContainer", (), since, None, "unix:", lambda: None)
    context.handler = handler
    return context


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (ConnectionSpent("used up", phase="dial"), ConnectionSpent, "plugin 10-x: used up"),
        (TimeoutError("slow"), StartTimeout, "plugin 10-x: cannot connect: /x.sock: slow"),
        (OSError("broken"), StartError, "plugin 10-x: cannot connect: /x.sock: broken"),
        (
            FileNotFoundError(2, "No such file"),
            StartError,
            "is the runtime running, with NRI enabled",
        ),
    ],
)
def test_a_start_that_cannot_connect(error: Exception, kind: type[Exception], text: str) -> None:
    failure = phases.dial_failed("10-x", error, SOURCE)
    assert type(failure) is kind
    assert text in str(failure)
    assert isinstance(failure, StartError)
    assert failure.phase == "dial"


@pytest.mark.parametrize(
    ("phase", "is_current", "in_configure", "text"),
    [
        ("dial", True, False, "to connect"),
        ("dial", False, False, "for the session before to end"),
        ("register", True, False, "for an answer to RegisterPlugin"),
        ("configure", True, False, "to be configured; is the runtime busy"),
        ("configure", True, True, "for the plugin's own configure handler to return"),
    ],
)
def test_a_start_that_takes_too_long(
    phase: str, is_current: bool, in_configure: bool, text: str
) -> None:
    error = phases.timed_out("10-x", phase, is_current=is_current, in_configure=in_configure)
    assert error.phase == phase
    assert f"10-x: the time for starting was over while waiting {text}" in str(error)


@pytest.mark.parametrize("phase", ["register", "configure", "synchronize", "serve"])
def test_a_loss_in_each_phase(phase: str) -> None:
    text = phases.lost("10-x", ConnectionLost("gone"), phase, [served(9.0)], 10.0, 2.0)
    assert text.startswith("plugin 10-x: gone ")
    assert text.count(";") >= 1
    assert "handler" not in text


def test_a_loss_while_a_handler_is_slow() -> None:
    slow = [served(8.0, "create_container"), served(0.0), served(9.9, "stop_container")]
    text = phases.lost("10-x", ConnectionLost("gone"), "serve", slow, 10.0, 2.0)
    assert text.endswith(
        "a handler took longer than the request timeout of 2 s: create_container (2.0 s), CreateContainer (10.0 s)"
    )
