"""Messages as readable text."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import yaml

from nri_sync import EventMask, api
from nri_sync.kit.logs.dumps import as_text, as_value, selected_events
from nri_sync.kit.logs.masking import Mask

__all__: list[str] = []


class TestSelection:
    @pytest.mark.parametrize(
        ("selection", "names"),
        [
            ((), set()),
            ("", set()),
            (EventMask(0), set()),
            (EventMask.CREATE_CONTAINER, {"CreateContainer"}),
            ("createcontainer", {"CreateContainer"}),
            (" CreateContainer , configure,", {"CreateContainer", "Configure"}),
            (
                ["stopcontainer,synchronize", "SHUTDOWN"],
                {"StopContainer", "Synchronize", "Shutdown"},
            ),
            ("pod", set(map(api.pretty_name, EventMask.POD.numbers))),
        ],
    )
    def test_a_selection_becomes_the_names_of_events(self, selection: Any, names: set[str]) -> None:
        assert selected_events(selection) == names

    def test_all_is_more_than_the_events(self) -> None:
        assert selected_events("All") == selected_events(EventMask.ALL) | {
            "Configure",
            "Synchronize",
            "Shutdown",
        }

    def test_an_unknown_event_is_refused(self) -> None:
        with pytest.raises(ValueError, match="did you mean 'createcontainer'"):
            selected_events("configure,createcontainers")


def container() -> api.Container:
    made = api.Container(
        id="0123",
        name="nginx",
        state=api.ContainerState.CONTAINER_RUNNING,
        labels={"b": "yes", "a": "1"},
        args=["sleep", "9", "a: b", "", "-x", "tab\t", "https://x:80/a b"],
        mounts=[api.Mount(destination="/a", options=["ro"]), api.Mount()],
        hooks=api.Hooks(),
    )
    made.linux.resources.memory.limit.value = 0
    made.linux.resources.cpu.shares.value = 1024
    made.linux.resources.cpu.cpus = "0-3"
    made.linux.devices.add(path="/dev/null", major=1)
    return made


TEXT = r"""
id: "0123"
name: nginx
state: CONTAINER_RUNNING
labels:
  a: "1"
  b: "yes"
args:
- sleep
- "9"
- "a: b"
- ""
- "-x"
- "tab\t"
- https://x:80/a b
mounts:
- destination: /a
  options:
  - ro
- {}
hooks: {}
linux:
  devices:
  - path: /dev/null
    major: 1
  resources:
    memory:
      limit: 0
    cpu:
      shares: 1024
      cpus: "0-3"
"""


def test_the_text() -> None:
    made = container()
    # The order is that of the fields' numbers.
    assert sorted(as_text(made).splitlines()) == sorted(TEXT.strip("\n").splitlines())
    assert as_text(made).startswith('id: "0123"\nname: nginx\nstate: CONTAINER_RUNNING\n')
    assert "    memory:\n      limit: 0\n" in as_text(made)
    assert "- destination: /a\n  options:\n  - ro\n- {}\n" in as_text(made)


def test_the_text_is_yaml() -> None:
    found = yaml.safe_load(as_text(container()))
    assert found["labels"] == {"a": "1", "b": "yes"}
    assert found["args"] == list(container().args)
    assert found["mounts"] == [{"destination": "/a", "options": ["ro"]}, {}]
    assert found["linux"]["resources"]["memory"] == {"limit": 0}


def test_an_empty_message() -> None:
    assert as_text(api.Empty()) == "{}"
    assert as_value(api.Empty()) == {}


def test_values_of_other_kinds() -> None:
    update = api.ContainerUpdate(container_id="a", ignore_failure=True)
    assert as_text(update).splitlines()[-1] == "ignore_failure: true"
    unknown = api.StateChangeEvent()
    unknown.MergeFromString(b"\x08\x63")  # the event 99
    assert as_text(unknown) == "event: 99"


def test_a_long_text_is_cut_off() -> None:
    made = container()
    for limit in (1, 10, 30, 100):
        text = as_text(made, limit)
        lines = text.splitlines()
        assert lines[-1] == f"... (truncated; the message has {made.ByteSize()} bytes)"
        assert len("\n".join(lines[:-1])) == limit
        assert as_text(made).startswith("\n".join(lines[:-1]))
    assert as_text(made, len(as_text(made)) + 1) == as_text(made)
    assert as_text(made, len(as_text(made))).endswith(" bytes)")


def test_the_cost_is_bounded() -> None:
    large = api.SynchronizeRequest(
        pods=[api.PodSandbox(id=f"pod{number}", name="x" * 100) for number in range(50_000)]
    )
    before = time.process_time()
    for _ in range(20):
        assert len(as_text(large, 1000)) < 1100
        assert len(as_value(large, 1000)) < 1100
    assert time.process_time() - before < 5


def test_a_value() -> None:
    value = as_value(container())
    assert json.loads(json.dumps(value)) == value
    assert value["pod_sandbox_id" if "pod_sandbox_id" in value else "name"] == "nginx"
    assert value["labels"] == {"a": "1", "b": "yes"}
    assert as_value(container(), 50) == as_text(container(), 50)


def test_secrets_are_left_out_on_demand() -> None:
    made = api.Container(
        env=["TOKEN=t0p"], args=["--password", "t0p"], annotations={"my.secret": "t0p", "a": "1"}
    )
    adjustment = api.Adjustment().add_env("API_KEY", "t0p").message
    for message in (made, adjustment):
        assert "t0p" in as_text(message)
        assert "t0p" not in as_text(message, mask=Mask())
        assert "t0p" not in json.dumps(as_value(message, mask=Mask()))
        assert "t0p" not in json.dumps(as_value(message, 20, mask=Mask()))
    assert as_text(made, mask=Mask()).count("(masked)") == 3


def test_events_have_their_names() -> None:
    response = api.nri_pb2.ConfigureResponse(
        events=EventMask.parse("createcontainer,runpodsandbox")
    )
    assert as_text(response) == "events: RunPodSandbox,CreateContainer"
    assert as_text(api.nri_pb2.ConfigureResponse(events=1 << 20)) == "events: unknown(0x100000)"
