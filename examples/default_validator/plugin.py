"""Rejects containers with changes that plugins must not make, as containerd's built-in validator does."""

from __future__ import annotations

import logging

from nri_sync import kit
from nri_sync.runtime import DefaultValidator, DefaultValidatorConfig

__all__ = ["Validator"]

logger = logging.getLogger("default-validator")


class Validator(DefaultValidator):
    """Rejects containers with changes that plugins must not make."""

    # main() replaces this attribute, and the validator reads it.
    config: DefaultValidatorConfig

    def __init__(self) -> None:
        super().__init__(DefaultValidatorConfig())

    def on_config(self, config: DefaultValidatorConfig) -> None:
        logger.info("%s", config)


PROGRAM = kit.Program(
    Validator, config=DefaultValidatorConfig.parse, name="default-validator", idx="99"
)

if __name__ == "__main__":
    kit.main(PROGRAM)
