"""Configuration: from a document to a dataclass, and the messages for every mistake."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from nri_sync.errors import ConfigError
from nri_sync.kit import load
from nri_sync.kit.config.loading import Bytes, Cpus, Duration, check

__all__: list[str] = []


@dataclass
class Device:
    path: Path
    count: int = 1


@dataclass
class Config:
    name: str
    devices: list[Device] = field(default_factory=list)
    interval: Duration = 1.0
    memory: Bytes = 0
    cpus: Cpus = 1.0


EXPECTED = Config("x", [Device(Path("/dev/fuse"), 2)], 90.0, 200 << 20, 0.25)
DOCUMENTS = {
    "json": """{"name": "x", "devices": [{"path": "/dev/fuse", "count": 2}],
        "interval": "1m30s", "memory": "200Mi", "cpus": "250m"}""",
    "toml": """name = "x"\ninterval = 90\nmemory = 209715200\ncpus = 0.25
        [[devices]]\npath = "/dev/fuse"\ncount = 2\n""",
    "yaml": """name: x\ninterval: 1m30s\nmemory: 200Mi\ncpus: 250m
devices:\n- path: /dev/fuse\n  count: 2\n""",
}


@pytest.mark.parametrize("format", DOCUMENTS)
def test_every_format(format: str, tmp_path: Path) -> None:
    assert load(Config, DOCUMENTS[format]) == EXPECTED
    assert load(Config, DOCUMENTS[format], format=format) == EXPECTED
    path = tmp_path / f"config.{format}"
    path.write_text(DOCUMENTS[format])
    assert load(Config, path) == EXPECTED


def test_defaults() -> None:
    assert load(Config, "name: x") == Config("x")
    assert load(Device, "path: relative") == Device(Path("relative"))


def test_all_mistakes_at_once_each_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "nam: x\n"
        "devices:\n"
        "- {path: /dev/fuse, count: two}\n"
        "- {Path: /dev/kvm}\n"
        "- /dev/net/tun\n"
        "interval: 5 minutes\n"
        "memory: lots\n"
        "cpus: [1]\n"
        "colour: red\n"
    )
    with pytest.raises(ConfigError) as error:
        load(Config, path)
    assert str(error.value).replace(str(path), "config.yaml").splitlines() == [
        'config.yaml: nam: unknown key; did you mean "name"?',
        'config.yaml: devices[0].count: expected a whole number, not "two"',
        'config.yaml: devices[1].Path: unknown key; did you mean "path"?',
        'config.yaml: devices[2]: expected a mapping, not "/dev/net/tun"',
        'config.yaml: interval: \'5 minutes\' is not a duration such as "1.5s", "2m30s" or "300ms"',
        'config.yaml: memory: \'lots\' is not a quantity such as "2", "500m", "1.5Gi" or "1e3"',
        "config.yaml: cpus: a quantity must be a str or a number, not list",
        "config.yaml: colour: unknown key; the known keys are: name, devices, interval, memory, cpus",
    ]
    assert error.value.source == str(path)
    assert len(error.value.problems) == 8


def test_a_text_has_a_name() -> None:
    with pytest.raises(ConfigError, match=r"^from the runtime: name: missing; expected text$"):
        load(Config, "", name="from the runtime")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json: cannot be read: No such file"):
        load(Config, tmp_path / "config.json")


def test_contradicting_values_are_refused() -> None:
    with pytest.raises(ConfigError) as error:
        load(Limits, '{"low": 2, "high": 1}')
    assert str(error.value) == "the configuration: low is above high"


@dataclass
class Limits:
    low: int
    high: int

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("low is above high")


class TestAModelOfAnotherLibrary:
    """A function in place of the dataclass."""

    def test_is_called_with_the_data(self) -> None:
        assert load(lambda data: sorted(data), "b: 1\na: 2\n") == ["a", "b"]

    def test_refuses_by_value_error(self) -> None:
        def refuse(data: Any) -> None:
            raise ValueError(f"no {json.dumps(data)}")

        with pytest.raises(ConfigError) as error:
            load(refuse, "a: 1", name="it")
        assert str(error.value) == 'it: no {"a": 1}'


@dataclass
class Strange:
    numbers: complex


def test_an_unsupported_type_is_refused_before_there_is_a_document() -> None:
    with pytest.raises(TypeError, match=r"^Strange\.numbers: complex is not supported$"):
        check(Strange)
    check(Config)
    check(dict)


def test_an_object_that_is_no_class_is_refused() -> None:
    with pytest.raises(TypeError, match="neither a dataclass, nor a model, nor a function"):
        check(Config("x"))  # type: ignore[arg-type]
