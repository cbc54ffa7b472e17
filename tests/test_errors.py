"""The tree in the module's docstring has all exceptions, with their bases."""

from __future__ import annotations

import re

import pytest

from nri_sync import errors


def _drawn_bases() -> dict[str, set[str]]:
    """The exceptions in the docstring's tree, each with the names of its bases."""
    assert errors.__doc__ is not None
    path: list[tuple[int, str]] = []
    bases: dict[str, set[str]] = {}
    for line in errors.__doc__.splitlines():
        found = re.match(r"^ {4}([ |+-]*)(\w+)(?: \((\w+)\))?(?: {2,}\S.*)?$", line)
        if not found:
            continue
        indent, name, other = len(found[1]), found[2], found[3]
        while path and path[-1][0] >= indent:
            path.pop()
        bases[name] = {path[-1][1] if path else "Exception"} | ({other} if other else set())
        path.append((indent, name))
    return bases


def test_the_docstring_draws_every_exception_and_its_bases() -> None:
    actual = {
        name: {base.__name__ for base in getattr(errors, name).__bases__} for name in errors.__all__
    }
    assert _drawn_bases() == actual


def test_every_exception_of_the_module_is_exported() -> None:
    defined = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert sorted(defined) == errors.__all__


@pytest.mark.parametrize("name", errors.__all__)
def test_every_exception_is_documented(name: str) -> None:
    assert getattr(errors, name).__doc__


def test_a_lost_connection_has_a_phase_or_none() -> None:
    assert errors.ConnectionLost("gone").phase is None
    error = errors.ConnectionLost("gone", phase="serve")
    assert (str(error), error.phase) == ("gone", "serve")


def test_a_failed_start_has_a_phase() -> None:
    with pytest.raises(TimeoutError) as caught:
        raise errors.StartTimeout("late", phase="register")
    assert isinstance(caught.value, errors.StartError)
    assert (str(caught.value), caught.value.phase) == ("late", "register")


def test_a_configuration_has_a_line_for_each_problem() -> None:
    error = errors.ConfigError("a.toml", ("x: wrong", "y: missing"))
    assert str(error) == "a.toml: x: wrong\na.toml: y: missing"
    assert (error.source, error.problems) == ("a.toml", ("x: wrong", "y: missing"))


def test_a_conflict_names_both_plugins_and_the_field() -> None:
    error = errors.OwnershipConflict("both", plugin="20-b", other="10-a", field=6, key="HOME")
    assert isinstance(error, ValueError)
    assert str(error) == "both"
    assert (error.plugin, error.other, error.field, error.key) == ("20-b", "10-a", 6, "HOME")


def test_a_rejection_names_the_validator_and_its_reason() -> None:
    error = errors.ValidationRejected("90-guard", "no hooks")
    assert (error.validator, error.reason) == ("90-guard", "no hooks")
    assert "90-guard" in str(error)
    assert "no hooks" in str(error)


def test_unusable_arguments_are_caught_by_the_usual_types() -> None:
    with pytest.raises(TypeError):
        raise errors.PluginError("no handlers")
    with pytest.raises(ValueError, match="no name"):
        raise errors.IdentityError("no name")
