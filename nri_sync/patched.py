"""Whether threads are threads: libraries of green threads replace parts of the standard library.

Under gevent's or eventlet's monkey-patching, ``select.epoll`` is gone, a thread is a coroutine, and a call that
blocks in it blocks all others. nri_sync needs real threads, which wait for sockets in the kernel.
"""

from __future__ import annotations

import sys

from nri_sync.errors import Unsupported

__all__ = ["check_unpatched"]

# Module and function that tells whether a module of the standard library is patched, and the names that it takes.
_LIBRARIES = (
    ("gevent", "gevent.monkey", "is_module_patched", ("threading", "select", "socket")),
    ("eventlet", "eventlet.patcher", "is_monkey_patched", ("thread", "select", "socket")),
)


def check_unpatched(what: str) -> None:
    """Raise Unsupported where ``what``, such as "a stub", could not work. Imports nothing."""
    for library, module, function, names in _LIBRARIES:
        is_patched = getattr(sys.modules.get(module), function, None)
        patched = [] if is_patched is None else [name for name in names if is_patched(name)]
        if patched:
            raise Unsupported(
                f"{what} needs real threads and epoll, and {library} has patched {', '.join(patched)}: run the "
                f"plugin in a process of its own, which does not use {library}, or this process with threads in "
                f"place of {library} (gunicorn: --worker-class gthread), or without patching these modules"
            )
