"""JSON, TOML and YAML: the same data, the recognised formats, and the messages for broken documents."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nri_sync.errors import ConfigError
from nri_sync.kit.config import documents
from nri_sync.kit.config.foreign import Bounds

__all__: list[str] = []

SAME = {
    "json": '{"name": "x", "devices": [{"path": "/a"}]}',
    "toml": 'name = "x"\n[[devices]]\npath = "/a"\n',
    "yaml": "name: x\ndevices:\n- path: /a\n",
}


@pytest.mark.parametrize("format", SAME)
def test_the_formats(format: str, tmp_path: Path) -> None:
    data = {"name": "x", "devices": [{"path": "/a"}]}
    assert documents.parse(SAME[format], "it") == (data, format, "it")
    if format != "json":
        assert documents.parse("# A comment\n\n" + SAME[format], "it").format == format
    path = tmp_path / f"plugin.{format.upper()}"
    path.write_text(SAME[format], encoding="utf-8-sig")
    assert documents.read(path) == (data, format, str(path))
    (tmp_path / "10-plugin.conf").write_text(SAME[format])
    assert documents.read(tmp_path / "10-plugin.conf").data == data


@pytest.mark.parametrize("format", [None, *documents.FORMATS])
@pytest.mark.parametrize("text", ["", "\n", "# nothing\n"])
def test_an_empty_document(text: str, format: str | None) -> None:
    assert documents.parse(text, "it", format).data == {}


def test_yaml_without_a_value() -> None:
    assert documents.parse("---\n...\n", "it").data == {}


def test_a_merged_key_of_yaml_may_be_overridden() -> None:
    text = "base: &base {a: 1, b: 2}\nmore:\n  <<: *base\n  b: 3\n"
    assert documents.parse(text, "it").data["more"] == {"a": 1, "b": 3}


def test_an_unknown_format() -> None:
    with pytest.raises(ValueError, match="unknown format 'ini'; the formats are json, toml, yaml"):
        documents.parse("", "it", "ini")


BROKEN = [
    ("json", '{"a": 1,\n "b" 2}', "line 2, column 6: expecting ':' delimiter"),
    ("json", '{"a": 1, "b": {"c": 1, "c": 2}}', 'the key "c" appears twice'),
    ("toml", "a = 1\nb = \n", "line 2, column 5"),
    ("toml", "a = 1\na = 2\n", "line 2, column 6"),
    ("yaml", "a: [1,\n", "while parsing a flow "),
    ("yaml", "a: 1\nb:\n  c: 1\n  c: 2\n", 'line 4, column 3: the key "c" appears twice'),
    ("yaml", "a: !!python/object:os.system {}", "could not determine a constructor"),
    ("yaml", "a: \x01", "characters are not allowed"),
    ("yaml", "a: 1\n---\nb: 1\n", "there are several documents"),
]


@pytest.mark.parametrize(("format", "text", "said"), BROKEN)
def test_a_broken_document(format: str, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        documents.parse(text, "it", format)
    assert str(error.value).startswith(f"it: is not {format.upper()}: ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("format", documents.FORMATS)
def test_a_document_beyond_its_bounds(format: str) -> None:
    deep = {"json": "[" * 100_000, "toml": f"a = {'[' * 100_000}", "yaml": "[" * 100_000}[format]
    with pytest.raises(ConfigError, match=r"^it: is nested too deeply"):
        documents.parse(deep, "it", format)
    with pytest.raises(ConfigError, match=r"^it: has more than the 10 bytes that are allowed$"):
        documents.parse(SAME[format], "it", format, bounds=Bounds(bytes=10, values=100))


def test_no_more_is_read_of_a_file_than_is_allowed() -> None:
    with pytest.raises(ConfigError, match=r"has more than the 16,777,216 bytes that are allowed"):
        documents.read("/dev/zero", "yaml")


def test_a_broken_document_of_no_known_format() -> None:
    with pytest.raises(
        ConfigError, match=r"^it: is not JSON \(guessed from its first line\): line 1"
    ):
        documents.parse("{", "it")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    with pytest.raises(ConfigError) as error:
        documents.read(missing)
    assert str(error.value) == f"{missing}: cannot be read: No such file or directory"
    binary = tmp_path / "binary.json"
    binary.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ConfigError) as error:
        documents.read(binary)
    assert str(error.value) == f"{binary}: is not text in UTF-8: byte 0xff at 7"


@pytest.mark.parametrize(
    ("format", "said"),
    [("toml", r"pip install 'nri_sync\[toml\]'"), ("yaml", r"pip install 'nri_sync\[yaml\]'")],
)
def test_without_the_package(format: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tomllib", "tomli", "yaml"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=said):
        documents.parse(SAME[format], "it", format)
    assert documents.parse("", "it", format).data == {}
