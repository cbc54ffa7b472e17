"""A plugin and a runtime, with a proxy between them that injects faults for any length of time."""
