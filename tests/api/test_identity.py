from __future__ import annotations

import pytest

from nri_sync.api import check_index, check_name, full_name, parse_file_name

__all__: list[str] = []


@pytest.mark.parametrize("index", ["00", "05", "99"])
def test_indices(index: str) -> None:
    assert check_index(index) == index


# The last two contain digits of other alphabets, one of them with two bytes.
@pytest.mark.parametrize("index", ["", "5", "005", "1a", "-1", " 1", "10\n", "٣٣", "é"])
def test_bad_indices(index: str) -> None:
    with pytest.raises(ValueError, match=r"plugin index .* is not two decimal digits") as error:
        check_index(index)
    assert repr(index) in str(error.value)


@pytest.mark.parametrize("name", ["a", "Device-Injector_2.0+x", "10-device", "-", "a" * 500])
def test_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    ("name", "character"),
    [("a b", " "), ("a/b", "/"), ("foo,bar", ","), ("café", "é"), ("x\n", "\\n")],
)
def test_bad_names(name: str, character: str) -> None:
    with pytest.raises(ValueError, match="has the character") as error:
        check_name(name)
    assert repr(name) in str(error.value)
    assert f"'{character}'" in str(error.value)


def test_an_empty_name() -> None:
    with pytest.raises(ValueError, match=r"^plugin name is empty$"):
        check_name("")


def test_a_name_of_another_type() -> None:
    with pytest.raises(TypeError, match="plugin name must be a str, not NoneType: None"):
        check_name(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="plugin index must be a str, not int: 10"):
        check_index(10)  # type: ignore[arg-type]


def test_full_names() -> None:
    assert full_name("05", "device") == "05-device"
    with pytest.raises(ValueError, match="plugin index"):
        full_name("5", "device")
    with pytest.raises(ValueError, match="plugin name"):
        full_name("05", "")


@pytest.mark.parametrize(
    ("file_name", "idx", "name"),
    [
        ("10-device", "10", "device"),
        ("10-foo-bar", "10", "foo-bar"),
        # Runtimes accept these two names.
        ("10-", "10", ""),
        ("10-a b", "10", "a b"),
    ],
)
def test_file_names(file_name: str, idx: str, name: str) -> None:
    parsed = parse_file_name(file_name)
    assert (parsed.idx, parsed.name) == parsed == (idx, name)


@pytest.mark.parametrize("file_name", ["", "device", "10", "1-x", "ab-x", "-x", "100-x"])
def test_bad_file_names(file_name: str) -> None:
    with pytest.raises(ValueError, match=r"NN-name|two decimal digits"):
        parse_file_name(file_name)
