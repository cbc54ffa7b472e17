"""A queue of unsolicited updates."""

__all__: list[str] = []
