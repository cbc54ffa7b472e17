"""Unsolicited updates, queued."""

__all__: list[str] = []
