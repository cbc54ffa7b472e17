"""What ``nri-sync demo`` shows: a plugin and a pod, small enough to be read at a glance."""

__all__: list[str] = []
