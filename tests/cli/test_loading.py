"""Finding a plugin in a file or a module, and the errors if there is none."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from nri_sync.cli.errors import CommandError, ExitCode
from nri_sync.cli.loading import identity, load_program, plugin_name

__all__: list[str] = []

PLUGIN = """
class {name}:
    def create_container(self, pod, container):
        return None
"""


@pytest.fixture(autouse=True)
def _modules_of_this_test_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.setattr(sys, "path", list(sys.path))


def written(directory: Path, text: str, name: str = "tuner.py") -> str:
    path = directory / name
    path.write_text(text)
    return str(path)


def loaded(target: str) -> Any:
    """The plugin of the loaded program."""
    return load_program(target).plugin


def failure(target: str) -> str:
    with pytest.raises(CommandError) as caught:
        loaded(target)
    assert caught.value.code is ExitCode.PLUGIN
    text = str(caught.value)
    assert "\n" not in text
    return text


class TestFound:
    def test_a_class(self, tmp_path: Path) -> None:
        plugin = loaded(written(tmp_path, PLUGIN.format(name="Tuner")))
        assert type(plugin).__name__ == "Tuner"

    def test_an_object_rather_than_its_class(self, tmp_path: Path) -> None:
        text = PLUGIN.format(name="Tuner") + "tuner = Tuner()\ntuner.mark = 1\n"
        assert loaded(written(tmp_path, text)).mark == 1

    def test_a_class_hides_its_base_classes(self, tmp_path: Path) -> None:
        text = PLUGIN.format(name="Base") + "class Tuner(Base):\n    pass\n"
        assert type(loaded(written(tmp_path, text))).__name__ == "Tuner"

    def test_a_subclass_of_the_typed_base_class(self, tmp_path: Path) -> None:
        text = (
            "import nri_sync\n"
            "from nri_sync import Plugin\n"
            "class Tuner(Plugin):\n"
            "    def run_pod_sandbox(self, pod):\n"
            "        pass\n"
        )
        assert type(loaded(written(tmp_path, text))).__name__ == "Tuner"

    def test_by_name(self, tmp_path: Path) -> None:
        path = written(tmp_path, PLUGIN.format(name="One") + PLUGIN.format(name="Two"))
        assert type(loaded(f"{path}:Two")).__name__ == "Two"

    def test_a_function_that_makes_it(self, tmp_path: Path) -> None:
        text = PLUGIN.format(name="_Tuner") + "def make():\n    return _Tuner()\n"
        assert type(loaded(written(tmp_path, text) + ":make")).__name__ == "_Tuner"

    def test_a_module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        written(tmp_path, PLUGIN.format(name="Tuner"), "loaded_as_module.py")
        monkeypatch.chdir(tmp_path)
        assert type(loaded("loaded_as_module:Tuner")).__name__ == "Tuner"

    def test_neighbouring_files_can_be_imported(self, tmp_path: Path) -> None:
        written(tmp_path, "ANSWER = 42\n", "lies_beside_it.py")
        text = "from lies_beside_it import ANSWER\n" + PLUGIN.format(name="Tuner")
        loaded(written(tmp_path, text))


class TestPrograms:
    PROGRAM = PLUGIN.format(name="Tuner") + (
        "from nri_sync import kit\nPROGRAM = kit.Program(Tuner, name='x', idx='42')\nSAME = PROGRAM\n"
    )

    def test_a_program_rather_than_its_plugin(self, tmp_path: Path) -> None:
        target = written(tmp_path, self.PROGRAM)
        assert identity(target, load_program(target)) == ("42", "x")

    def test_a_function_that_makes_it(self, tmp_path: Path) -> None:
        text = PLUGIN.format(name="Tuner") + (
            "from nri_sync import kit\ndef program():\n    return kit.Program(Tuner(), idx=7)\n"
        )
        target = written(tmp_path, text)
        assert identity(target, load_program(target)) == ("07", "tuner")

    def test_a_chain_rather_than_its_plugins(self, tmp_path: Path) -> None:
        text = (
            PLUGIN.format(name="One")
            + PLUGIN.format(name="Two")
            + (
                "from nri_sync import kit\none = One()\nBOTH = kit.chain(kit.Inventory(), kit.chain(one, Two()))\n"
            )
        )
        assert repr(loaded(written(tmp_path, text))) == "chain(Inventory, chain(One, Two))"

    def test_two(self, tmp_path: Path) -> None:
        text = self.PROGRAM + "OTHER = kit.Program(Tuner)\n"
        assert "has more than one plugin: PROGRAM, OTHER;" in failure(written(tmp_path, text))

    def test_the_dataclass_of_the_module(self, tmp_path: Path) -> None:
        text = "import dataclasses\n@dataclasses.dataclass\nclass Config:\n    a: int = 1\n"
        program = load_program(written(tmp_path, text + PLUGIN.format(name="Tuner")))
        assert program.config is not None
        assert program.config.__name__ == "Config"

    def test_no_dataclass_for_a_plugin_with_configure(self, tmp_path: Path) -> None:
        text = "import dataclasses\n@dataclasses.dataclass\nclass Config:\n    a: int = 1\n"
        own = "    def configure(self, config, runtime, version):\n        pass\n"
        assert load_program(written(tmp_path, text + PLUGIN.format(name="T") + own)).config is None

    def test_main_without_a_guard(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(sys, "argv", ["nri-sync", "run", "tuner.py"])
        text = PLUGIN.format(name="T") + "from nri_sync import kit\nkit.main(T, name='t', idx=10)\n"
        assert 'put the call of kit.main() under: if __name__ == "__main__":' in failure(
            written(tmp_path, text)
        )


class TestNotFound:
    def test_a_handler_that_is_misspelt(self, tmp_path: Path) -> None:
        text = "class Tuner:\n    def create_containers(self, pod, container):\n        pass\n"
        assert failure(written(tmp_path, text)).endswith(
            "Tuner.create_containers is no handler; did you mean create_container?"
        )

    def test_the_place_is_the_users(self, tmp_path: Path) -> None:
        text = "from nri_sync import kit\nP = kit.Program(int, confg=1)\n"
        assert failure(written(tmp_path, text)).endswith("did you mean config? (tuner.py, line 2)")

    def test_no_file(self, tmp_path: Path) -> None:
        assert "there is no such Python file" in failure(str(tmp_path / "none.py"))

    def test_a_directory(self, tmp_path: Path) -> None:
        assert "is a directory" in failure(str(tmp_path))

    def test_no_module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        written(tmp_path, "", "meant.py")
        monkeypatch.chdir(tmp_path)
        assert "there is no module of this name" in failure("not_there_at_all")

    def test_a_module_without_a_plugin(self, tmp_path: Path) -> None:
        text = "from nri_sync import Plugin\nclass Other:\n    pass\n"
        assert "has no plugin" in failure(written(tmp_path, text))

    def test_a_module_with_two_plugins(self, tmp_path: Path) -> None:
        path = written(tmp_path, PLUGIN.format(name="One") + PLUGIN.format(name="Two"))
        text = failure(path)
        assert "has more than one plugin: One, Two" in text
        assert f"{path}:One" in text

    def test_no_plugin_of_the_given_name(self, tmp_path: Path) -> None:
        path = written(tmp_path, PLUGIN.format(name="One"))
        assert "has no Two; it has: One" in failure(f"{path}:Two")
        assert "it has: One" in failure(f"{path}:Two")

    def test_no_python(self, tmp_path: Path) -> None:
        text = failure(written(tmp_path, "x = 1\ny = = 2\n"))
        assert "SyntaxError" in text
        assert "line 2" in text

    def test_a_module_that_fails_to_load(self, tmp_path: Path) -> None:
        text = failure(written(tmp_path, "\n1 / 0\n"))
        assert "ZeroDivisionError" in text
        assert "(tuner.py, line 2)" in text

    def test_a_class_that_fails_to_make_the_plugin(self, tmp_path: Path) -> None:
        text = PLUGIN.format(name="Tuner") + "    def __init__(self, path):\n        pass\n"
        assert "making the plugin failed: TypeError" in failure(written(tmp_path, text))

    def test_a_misspelt_handler(self, tmp_path: Path) -> None:
        text = PLUGIN.format(name="Tuner") + "    def runpodsandbox(self, pod):\n        pass\n"
        assert "did you mean run_pod_sandbox(pod)?" in failure(written(tmp_path, text))


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("tuner.py", "tuner"),
        ("/opt/plugins/cpu_tuner.py:Tuner", "cpu-tuner"),
        ("/opt/cpu_tuner/plugin.py", "cpu-tuner"),
        ("package.cpu_tuner:Tuner", "cpu-tuner"),
    ],
)
def test_the_name_of_a_plugin_that_has_none(target: str, name: str) -> None:
    assert plugin_name(target) == name
