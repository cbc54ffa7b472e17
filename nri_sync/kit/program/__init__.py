"""Runs a plugin as a program: options, signals, systemd, exit codes."""

__all__: list[str] = []
