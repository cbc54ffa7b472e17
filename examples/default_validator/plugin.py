"""Rejects containers when plugins have changed what they must not change, as containerd's own validator does."""

from __future__ import annotations

import logging

from nri_sync import kit
from nri_sync.runtime import DefaultValidator, DefaultValidatorConfig

__all__ = ["Validator"]

logger = logging.getLogger("default-validator")


class Validator(DefaultValidator):
    """Rejects containers when plugins have changed what they must not change."""

    # main() replaces the configuration, and the validator takes it from there.
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
