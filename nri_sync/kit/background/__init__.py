"""Work that outlives a request."""

__all__: list[str] = []
