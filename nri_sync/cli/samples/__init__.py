"""The plugin and the pod of ``nri-sync demo``, both short enough to read at a glance."""

__all__: list[str] = []
