"""How a plugin is, told over HTTP and in a file."""

__all__: list[str] = []
