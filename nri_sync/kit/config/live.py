"""The configuration of a running plugin: its source, its changes, and its delivery to the plugin.

The source is a file. Without a file, it is the text that the runtime sends with Configure, which is empty if the
runtime has none. The plugin finds the configuration in its attribute ``config``. If the plugin has a method
``on_config(config)``, it is called before that attribute changes; it may raise ValueError to refuse the
configuration.
"""

from __future__ import annotations

import os
import threading
import types
from pathlib import Path
from typing import Any, Callable

import nri_sync
from nri_sync import fork
from nri_sync.api.handlers import find_handlers
from nri_sync.errors import ConfigError
from nri_sync.kit.config import loading as config
from nri_sync.logger import get_logger
from nri_sync.threads import signal_safe

__all__ = ["LiveConfig"]

logger = get_logger("nri_sync.kit.config")


class LiveConfig:
    """Gives a plugin its configuration. All methods may be called from any thread; they apply one at a time.

    On the main thread, ``read_file()`` and ``read_text()`` wait while another thread reads and applies the
    configuration. An interrupt either withdraws the call, or lets the other thread complete it.
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
            cls: the type that :func:`nri_sync.kit.load` makes of a document.
            path: the file; default is the text from the runtime.
            without: the name of the configuration in messages, if there is neither a file nor a text.

        Raises:
            TypeError: ``cls`` cannot be used.
        """
        config.check(cls)
        self._plugin = plugin
        self._cls = cls
        self._path = path
        self._without = without
        # Guards _text, the text applied last. Held while a configuration is applied: one at a time.
        self._lock = threading.Lock()
        self._text: str | None = None
        fork.in_child(self._after_fork_in_child)

    def _after_fork_in_child(self) -> None:
        self._lock = threading.Lock()

    @property
    def path(self) -> str | os.PathLike[str] | None:
        """The path of the configuration file; None without one."""
        return self._path

    def read_file(self) -> None:
        """Read the file, and apply its content.

        Raises:
            ConfigError: the content is wrong, or the plugin refuses it. The former configuration stays.
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
        """Apply the text from the runtime, unless there is a file, or the text is unchanged.

        Raises ConfigError as :meth:`read_file`.
        """
        if self._path is not None:
            if text:
                logger.warning(
                    "the configuration from the runtime is ignored; %s is used instead",
                    os.fspath(self._path),
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
        """Return the object to make the stub with: the plugin, which applies its configuration at Configure.

        If the configuration is wrong, Configure fails with the mistakes as its text, and so does the stub's start.

        Raises:
            PluginError: the plugin has no handlers, or wrong ones.
        """
        handlers, _ = find_handlers(self._plugin)
        own = handlers.pop("configure", None)

        def configure(config: str, runtime: str, version: str) -> Any:
            try:
                self.read_text(config)
            except ConfigError as error:
                # A mistake of the user: the log needs no traceback.
                context = nri_sync.request_context()
                context.abort(nri_sync.StatusCode.INVALID_ARGUMENT, str(error))
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
