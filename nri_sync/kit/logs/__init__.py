"""Log records that say which request they belong to."""

__all__: list[str] = []
