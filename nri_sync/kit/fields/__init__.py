"""What fields of pods and containers mean: annotations, cgroups, CPUs, images, QoS. Pure functions, nearly all."""

__all__: list[str] = []
