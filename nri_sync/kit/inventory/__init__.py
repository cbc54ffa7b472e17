"""The view of pods and containers that a plugin keeps, and its store."""

__all__: list[str] = []
