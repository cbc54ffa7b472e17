"""The health and the metrics of a plugin, served over HTTP and in a file."""

__all__: list[str] = []
