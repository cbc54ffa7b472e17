"""Logging in one call, and the dumps."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nri_sync import EventMask, api, kit
from nri_sync.errors import RequestFailed
from nri_sync.kit.logs import dumps
from nri_sync.kit.logs.logs import dump_logger
from tests.kit._node import CONTAINER, POD, Node

__all__: list[str] = []

log = logging.getLogger("my.plugin")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    dump_logger.setLevel(logging.NOTSET)


@pytest.fixture
def node(socket_dir: Path) -> Iterator[Node]:
    with Node(socket_dir) as made:
        made.start()
        yield made


class Plugin:
    """Logs in a handler, and in a thread that it starts."""

    def create_container(self, pod: Any, container: Any) -> api.Adjustment:
        log.info("creating")
        thread = threading.Thread(target=kit.in_context(log.info), args=("in a thread",))
        thread.start()
        thread.join()
        return api.Adjustment().add_env("A", "b")

    def stop_container(self, pod: Any, container: Any) -> None:
        raise ValueError("no")


def run(node: Node, format: str, **options: Any) -> list[str]:
    """Connect the plugin, create a container and fail to stop it; returns the lines of the log."""
    stream = io.StringIO()
    requests = kit.setup_logging(format, stream=stream, **options)
    stub = node.stub(Plugin(), interceptors=[requests])
    node.connect(stub)
    node.runtime.create_container(POD, CONTAINER)
    with pytest.raises(RequestFailed):
        node.runtime.stop_container(POD, CONTAINER)
    stub.stop()
    return stream.getvalue().splitlines()


def test_text(node: Node) -> None:
    lines = run(node, "text")
    (created,) = [line for line in lines if line.endswith(" my.plugin: creating")]
    (thread,) = [line for line in lines if line.endswith(" my.plugin: in a thread")]
    about = created[created.index("[") : created.index("]") + 1]
    assert about.startswith("[10-test CreateContainer default/web:nginx ")
    assert about in thread
    (failed,) = [line for line in lines if line.endswith("/StopContainer failed")]
    assert "ERROR   [10-test StopContainer default/web:nginx " in failed
    assert "    ValueError: no" in lines
    assert not [line for line in lines if "dump" in line]
    assert any("INFO    nri_sync.stub: 10-test: connecting to " in line for line in lines)


def test_json(node: Node) -> None:
    records = [json.loads(line) for line in run(node, "json")]
    (created,) = [item for item in records if item["message"] == "creating"]
    (thread,) = [item for item in records if item["message"] == "in a thread"]
    for name, value in {
        "plugin": "10-test",
        "event": "CreateContainer",
        "namespace": "default",
        "pod": "web",
        "container": "nginx",
    }.items():
        assert (created[name], thread[name]) == (value, value)
    assert created["operation"] == thread["operation"]
    (failed,) = [item for item in records if "exception" in item]
    assert failed["event"] == "StopContainer"
    assert failed["operation"] != created["operation"]
    assert "ValueError: no" in failed["exception"]


def test_dumps_as_text(node: Node) -> None:
    lines = run(node, "text", dump="createcontainer,stopcontainer,configure")
    text = "\n".join(lines)
    for event in ("Configure", "CreateContainer", "StopContainer"):
        assert f"DEBUG   [10-test {event} " in text
    assert "[10-test Synchronize" not in text
    assert "nri_sync.kit.dump: request:\n    pod:\n      id: pod0\n      name: web\n" in text
    assert (
        "nri_sync.kit.dump: reply:\n    adjust:\n      env:\n      - key: A\n        value: b\n"
        in text
    )
    assert "nri_sync.kit.dump: no reply: ValueError('no')" in text


@pytest.mark.parametrize("format", ["text", "json"])
def test_dumps_leave_secrets_out(format: str, node: Node) -> None:
    # The plugin answers with a variable A, whose name matches the pattern.
    assert "(masked)" not in "\n".join(run(node, format, dump="createcontainer"))
    assert "(masked)" in "\n".join(run(node, format, dump="createcontainer", mask=["a"]))
    with pytest.raises(TypeError, match="list of texts"):
        kit.setup_logging(mask="password")


def test_dumps_leave_the_usual_secrets_out_by_default(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    container = api.Container()
    container.CopyFrom(CONTAINER)
    container.env.append("TOKEN=t0p")
    shown = []
    for options in ({}, {"mask": ()}):
        requests = kit.RequestLogging(dump="createcontainer", **options)  # type: ignore[arg-type]
        stub = node.stub(Plugin(), interceptors=[requests])
        with caplog.at_level(logging.DEBUG):
            node.connect(stub)
            node.runtime.create_container(POD, container)
            stub.stop()
        assert "TOKEN" in caplog.text
        shown.append("t0p" in caplog.text)
        caplog.clear()
    assert shown == [False, True]


def test_dumps_as_json(node: Node) -> None:
    lines = run(node, "json", dump=EventMask.CREATE_CONTAINER, level="warning")
    records = [json.loads(line) for line in lines]
    dumped = [item for item in records if item["logger"] == "nri_sync.kit.dump"]
    assert [item["message"] for item in dumped] == ["request", "reply"]
    request, reply = (item["dump"] for item in dumped)
    assert request["pod"] == {"id": "pod0", "name": "web", "namespace": "default"}
    assert reply == {"adjust": {"env": [{"key": "A", "value": "b"}]}}
    assert {item["level"] for item in records} == {"DEBUG", "ERROR"}  # and not INFO


def test_dumps_are_cut_off(node: Node) -> None:
    text = "\n".join(run(node, "text", dump="createcontainer", dump_limit=20))
    assert (
        "request:\n    pod:\n      id: pod0\n      na\n    ... (truncated; the message has " in text
    )


def test_a_dump_that_fails_does_not_touch_the_request(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(dumps, "as_text", fail)
    text = "\n".join(run(node, "text", dump="createcontainer"))
    assert "the request cannot be dumped" in text
    assert "the reply cannot be dumped" in text
    assert "my.plugin: creating" in text


def test_dumps_are_off_where_their_level_is(node: Node) -> None:
    requests = kit.RequestLogging(dump="all")
    stream = io.StringIO()
    kit.setup_logging(stream=stream)
    node.connect(node.stub(Plugin(), interceptors=[requests]))
    node.runtime.create_container(POD, CONTAINER)
    assert "creating" in stream.getvalue()
    assert "dump" not in stream.getvalue()


def test_a_second_setup_replaces_the_first() -> None:
    other = logging.NullHandler()
    root = logging.getLogger()
    root.addHandler(other)
    first, second = io.StringIO(), io.StringIO()
    kit.setup_logging("text", "debug", dump="all", stream=first)
    assert (root.level, dump_logger.level) == (logging.DEBUG, logging.DEBUG)
    kit.setup_logging("json", logging.WARNING, stream=second)
    assert (root.level, dump_logger.level) == (logging.WARNING, logging.NOTSET)
    log.warning("hello")
    assert first.getvalue() == ""
    assert json.loads(second.getvalue())["message"] == "hello"
    assert other in root.handlers


def test_standard_error_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    kit.setup_logging(level="INFO")
    log.info("hello")
    assert capsys.readouterr().err.endswith(" INFO    my.plugin: hello\n")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"format": "xml"}, "format must be one of text, json, not 'xml'"),
        ({"level": "loud"}, "level must be one of critical, error, warning, info, debug"),
        ({"dump": "creation"}, "unknown event 'creation'"),
        ({"dump_limit": 0}, "dump_limit must be positive"),
    ],
)
def test_wrong_arguments_change_nothing(options: Any, text: str) -> None:
    root = logging.getLogger()
    before = list(root.handlers), root.level
    with pytest.raises(ValueError, match=text):
        kit.setup_logging(**options)
    assert (root.handlers, root.level) == before


def test_wrong_arguments_of_the_interceptor() -> None:
    with pytest.raises(ValueError, match="dump_format must be one of"):
        kit.RequestLogging(dump_format="yaml")
