"""The configuration of a running plugin: where it comes from, when it changes, and how the plugin gets it.

It is read from a file; without one, from the text that the runtime sends with Configure, which is empty when the
runtime has none. The plugin finds it as its attribute ``config``. One with a method ``on_config(config)`` is
called with each before that, and may raise ValueError to refuse it.
"""

from __future__ import annotations

import os
import threading
import types
from pathlib import Path
from typing import Any, Callable

import grpc

import nri_sync
from nri_sync.api.handlers import find_handlers
from nri_sync.errors import ConfigError
from nri_sync.kit.config import loading as config
from nri_sync.logger import get_logger
from nri_sync.threads import signal_safe

__all__ = ["LiveConfig"]

logger = get_logger("nri_sync.kit.config")


class LiveConfig:
    """Gives a plugin its configuration. All methods may be called from any thread; one is applied at a time.

    Called on the main thread, ``read_file()`` and ``read_text()`` have another thread read and apply the
    configuration, and wait. An interrupt withdraws the call, or leaves it to be completed.
    """

    def __init__(
        self,
        plugin: Any,
        cls: Callable[..., object],
        path: str | os.PathLike[str] | None = None,
        *,
        without: str = "the configuration from the runtime, which is empty",
    ) -> None:
        """
        Args:
            cls: what :func:`nri_sync.kit.load` makes of a document.
            path: the file; default is what the runtime sends.
            without: what to call the configuration, in messages, when neither has one.

        Raises:
            TypeError: ``cls`` cannot be used.
        """
        config.check(cls)
        self._plugin = plugin
        self._cls = cls
        self._path = path
        self._without = without
        # Guards the text that was applied last, and that only one is applied at a time.
        self._lock = threading.Lock()
        self._text: str | None = None

    @property
    def path(self) -> str | os.PathLike[str] | None:
        """The file it is read from."""
        return self._path

    def read_file(self) -> None:
        """Read the file, and apply what it says.

        Raises:
            ConfigError: it says nothing usable, or the plugin refuses it: all is as before.
            ValueError: there is no file.
        """
        if self._path is None:
            raise ValueError("there is no configuration file to read")
        path = os.fspath(self._path)
        self._apply_file(path)
        logger.info("configured from %s", path)

    @signal_safe
    def _apply_file(self, path: str) -> None:
        with self._lock:
            self._apply_locked(config.load(self._cls, Path(path)), path)

    def read_text(self, text: str) -> None:
        """Apply what the runtime sends, unless there is a file, or it is as before.

        Raises ConfigError as :meth:`read_file`.
        """
        if self._path is not None:
            if text:
                logger.warning(
                    "the configuration from the runtime is not used, but %s", os.fspath(self._path)
                )
            return
        source = "the configuration from the runtime" if text.strip() else self._without
        if self._apply_text(text, source):
            logger.info("configured from %s", source)

    @signal_safe
    def _apply_text(self, text: str, source: str) -> bool:
        """Returns False if the text was applied before."""
        with self._lock:
            if text == self._text:
                return False
            self._apply_locked(config.load(self._cls, text, name=source), source)
            self._text = text
            return True

    def plugin(self) -> object:
        """What to make the stub with: the plugin, which takes in its configuration before all else.

        Where that is wrong, Configure fails with what is wrong as its text, and with it the start of the stub.

        Raises:
            PluginError: the plugin has no handlers, or wrong ones.
        """
        handlers, _ = find_handlers(self._plugin)
        own = handlers.pop("configure", None)

        def configure(config: str, runtime: str, version: str) -> Any:
            try:
                self.read_text(config)
            except ConfigError as error:
                # A mistake of the user, which needs no traceback in the log.
                context = nri_sync.request_context()
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            return None if own is None else own(config, runtime, version)

        return types.SimpleNamespace(**handlers, configure=configure)

    def _apply_locked(self, value: object, source: str) -> None:
        assert self._lock.locked()
        on_config = getattr(self._plugin, "on_config", None)
        if on_config is not None:
            try:
                on_config(value)
            except ConfigError:
                raise
            except ValueError as error:
                raise ConfigError(source, (str(error) or repr(error),)) from error
        self._plugin.config = value
