"""The names of the kit refer to the right objects, with any modules imported before."""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nri_sync import kit

__all__: list[str] = []


@pytest.mark.parametrize("name", kit.__all__)
def test_every_name_is_exported_by_its_module(name: str) -> None:
    home = importlib.import_module(kit._HOMES[name])
    assert name in home.__all__
    assert getattr(kit, name) is getattr(home, name)


def test_no_exported_name_is_the_name_of_a_module() -> None:
    # After the import of a submodule, Python binds it in its package.
    modules = {module.name for module in pkgutil.iter_modules(kit.__path__)}
    assert not modules & set(kit.__all__)


def test_names_are_listed_once_and_in_both_places() -> None:
    assert len(kit.__all__) == len(set(kit.__all__))
    assert set(kit.__all__) == set(kit._HOMES) <= set(dir(kit))


def test_an_unknown_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'chian'"):
        _ = kit.chian  # type: ignore[attr-defined]


def test_no_module_is_loaded_before_its_use() -> None:
    code = (
        "import sys, nri_sync.kit;"
        "print([name for name in sys.modules if name.startswith('nri_sync.kit.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "[]"


def test_the_reference_has_every_exported_name() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "kit-reference.md"
    headings = re.findall(r"^### `nri_sync\.kit\.(\w+)`", page.read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(kit.__all__)
