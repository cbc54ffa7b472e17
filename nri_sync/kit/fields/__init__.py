"""Interprets fields of pods and containers: annotations, cgroups, CPUs, images, QoS. Mostly pure functions."""

__all__: list[str] = []
