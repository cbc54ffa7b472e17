"""Typed configuration: from a file or from the runtime, and read again while the plugin runs."""

__all__: list[str] = []
