"""The environment variables of a container, and a claim of the variables that differ. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping

from nri_sync import api

__all__ = ["container_env", "set_env"]


def container_env(container: api.Container) -> dict[str, str]:
    """Return the variables of a container by name, with the changes of the plugins before this one.

    If a name appears twice, the last value counts, as for the program: containerd has the image's entry first,
    then the manifest's. An entry without ``=`` is not a variable.
    """
    entries = (entry.partition("=") for entry in container.env)
    return {name: value for name, equals, value in entries if equals}


def set_env(
    adjustment: api.Adjustment,
    container: api.Container,
    variables: Mapping[str, str],
    *,
    keep_own: bool = False,
) -> api.Adjustment:
    """Set the variables whose values differ in the container. Returns the adjustment.

    A plugin claims each variable that it sets. If two plugins claim one variable, the request fails with a
    conflict. So a value that the container already has, also from a plugin before this one, is not set. With
    ``keep_own`` a variable of the container keeps its value.

    Raises ValueError for a name or value that no runtime accepts.
    """
    own = container_env(container)
    for name, value in variables.items():
        if own.get(name) != value and not (keep_own and name in own):
            adjustment.add_env(name, value)
    return adjustment
