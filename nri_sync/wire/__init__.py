"""The wire formats, without I/O: bytes in, events out. See :mod:`.mux`, :mod:`.ttrpc` and :mod:`.streams`."""

from __future__ import annotations

__all__ = ()
