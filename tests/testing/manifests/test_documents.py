"""Files and texts, JSON and YAML."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from nri_sync.testing.manifests.documents import read
from nri_sync.testing.manifests.model import ManifestError

__all__: list[str] = []


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "pod.yaml"
    path.write_text("kind: Pod\n", encoding="utf-8-sig")
    [document] = read(path)
    assert document.data == {"kind": "Pod"}
    assert document.source == str(path)
    assert read(str(path))[0].data == document.data


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("kind: Pod"))
    [document] = read("-")
    assert (document.source, document.data) == ("<stdin>", {"kind": "Pod"})


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ('{"kind": "Pod"}', ["Pod"]),
        ('{"kind": "Pod"}\n{"kind": "Job"}\n', ["Pod", "Job"]),
        ('[{"kind": "Pod"}, {"kind": "Job"}]', ["Pod", "Job"]),
        ("{kind: Pod}\n", ["Pod"]),
        ("---\nkind: Pod\n---\n# nothing\n---\nkind: Job\n", ["Pod", "Job"]),
    ],
)
def test_texts(text: str, kinds: list[str]) -> None:
    assert [document.text("kind") for document in read(text)] == kinds


def test_documents_are_counted_where_there_are_several() -> None:
    assert [document.source for document in read("a: 1\n---\nb: 2\n")] == [
        "<text>, document 1",
        "<text>, document 2",
    ]


def test_yaml_is_that_of_kubernetes() -> None:
    [document] = read(
        "at: 2025-03-01T10:00:00Z\nday: 2025-03-01\nports: 22:22\nmode: 0644\nok: y\n"
    )
    assert document.data == {
        "at": "2025-03-01T10:00:00Z",
        "day": "2025-03-01",
        "ports": "22:22",
        "mode": 0o644,
        "ok": "y",
    }


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("kind: Pod\nspec:\n  image: {{ .Values.image }}\n", 3),
        ("{{- if .Values.enabled }}\nkind: Pod\n{{- end }}\n", 1),
        ('{"kind": {{ .Values.kind | quote }}}', 1),
        ("kind: Pod\n{{- with .Values.labels }}\nlabels: {}\n{{- end }}\n", 2),
        ("kind: Pod\nname: {{ .Release.Name }}-web\n", 2),
    ],
)
def test_templates_of_manifests(text: str, line: int) -> None:
    with pytest.raises(ManifestError) as raised:
        read(text)
    assert str(raised.value) == (
        f"<text>: line {line} has {{{{ }}}}: this is a template: render it first, as `helm template` does"
    )


def test_braces_in_texts_are_no_template() -> None:
    [document] = read("kind: Pod\nargs: ['{{inputs.parameters.x}}']\n")
    assert document.texts("args") == ["{{inputs.parameters.x}}"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("\n", "<text>: is empty: give it a Pod"),
        ("a: [\n", "<text>: is not YAML: line 2, column 1: "),
        ("a: &x [1]\n" + f"b: [{','.join(['*x'] * 600_000)}]\n", "<text>: has more than the 1,000,000 values"),
        ("a: &x {b: *x}\n", "<text>: is not YAML: line 1, column 11: the anchor 'x' contains itself"),
        ("a: 1\na: 2\n", '<text>: is not YAML: line 2, column 1: the key "a" appears twice'),
        ("a: 1\n---\n3\n", "<text>, document 2: is a single value; an object"),
        ('{"a": 1,}', "<text>: is not JSON: line 1, column "),
        ("a: \x01\n", "<text>: is not YAML: "),
        ("a: &x [*x]\n? [1]\n: 2\n", "<text>: is not YAML: "),
        ("[" * 100_000, "<text>: is nested too deeply"),
        ("a: !!python/object:os.system x\n", "<text>: is not YAML: line 1, column 4: could not determine"),
    ],
)  # fmt: skip
def test_an_invalid_document_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ManifestError) as raised:
        read(text)
    assert str(raised.value).startswith(problem)
    assert "\n" not in str(raised.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"a: \xff")
    for name, problem in {
        "none": "there is no such file",
        ".": "is a directory: name the files in it",
        "latin": "is not text in UTF-8: byte 0xff at 3",
        "a\0": "cannot be read: ",
        "x" * 300: "cannot be read: File name too long",
        "/dev/zero": "has more than the 16,777,216 bytes that are allowed",
    }.items():
        with pytest.raises(ManifestError, match=problem):
            read(tmp_path / name)


def test_without_pyyaml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert read('{"kind": "Pod"}')[0].text("kind") == "Pod"
    with pytest.raises(ManifestError, match=r"pip install 'nri_sync\[yaml\]'"):
        read("kind: Pod\n")
