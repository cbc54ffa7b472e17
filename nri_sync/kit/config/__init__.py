"""Typed configuration, from a file or from the runtime, with reload while the plugin runs."""

__all__: list[str] = []
