"""The pods and containers that a plugin knows, and their store."""

__all__: list[str] = []
