"""Log records that name the request they belong to."""

__all__: list[str] = []
