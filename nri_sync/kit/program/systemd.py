"""The notify protocol of systemd: reports that the program is ready, reloads, stops, or is alive.

As in sd_notify(3) and sd_watchdog_enabled(3): datagrams of ``NAME=value`` lines to the socket in NOTIFY_SOCKET.
Without that variable nothing is sent. No function raises: a missing listener does not end the program.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

from nri_sync.logger import get_logger
from nri_sync.text import printable

__all__ = ["Notifier"]

logger = get_logger("nri_sync.kit.program")

# The seconds to wait while systemd's queue is full, before a message is dropped.
_PATIENCE = 1.0


class Notifier:
    """Sends notifications about this process to systemd. All methods may be called from any thread."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        """``environ`` is the process's environment by default. It is read here, once."""
        environ = os.environ if environ is None else environ
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self._watchdog = _watchdog(environ) if self._address else None

    @property
    def watchdog_interval(self) -> float | None:
        """The seconds between two calls of :meth:`alive`, half of systemd's limit; None without a watchdog."""
        return self._watchdog

    def ready(self, status: str = "") -> None:
        """Report that the program has started, or has reloaded."""
        self._send("READY=1", _status(status))

    def reloading(self) -> None:
        """Report a reload of the configuration. :meth:`ready` must follow, also after a failure."""
        # Type=notify-reload requires the time.
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str = "") -> None:
        """Report that the program ends."""
        self._send("STOPPING=1", _status(status))

    def status(self, status: str) -> None:
        """Set the line that ``systemctl status`` shows."""
        self._send(_status(status))

    def alive(self) -> None:
        """Report that the program is alive. systemd kills a program whose report is late."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        message = "\n".join(filter(None, lines)).encode("utf-8", "replace")
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(_PATIENCE)
                sock.sendto(message, self._address)
        except OSError as error:
            logger.warning("cannot send %s to systemd: %s", lines[0], error)


def _address(text: str) -> str:
    """Return the address for the socket module; empty if there is no listener."""
    if text.startswith("@"):
        return "\0" + text[1:]  # in the abstract namespace
    if text and not text.startswith("/"):
        logger.warning("NOTIFY_SOCKET=%s is neither a path nor abstract; nothing is sent", text)
        return ""
    return text


def _watchdog(environ: Mapping[str, str]) -> float | None:
    text = environ.get("WATCHDOG_USEC", "")
    pid = environ.get("WATCHDOG_PID") or str(os.getpid())
    if not text or pid != str(os.getpid()):
        return None
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        logger.warning("WATCHDOG_USEC=%s is not a number of microseconds; no watchdog", text)
        return None
    return int(text) / 2_000_000


def _status(text: str) -> str:
    return f"STATUS={printable(' '.join(text.split()))}" if text else ""
