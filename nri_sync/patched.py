"""Detects libraries of green threads that have replaced parts of the standard library.

Under gevent's or eventlet's monkey-patching, ``select.epoll`` does not exist, a thread is a coroutine, and a call
that blocks in a coroutine blocks all others. nri_sync needs real threads, which wait for sockets in the kernel.
"""

from __future__ import annotations

import sys

from nri_sync.errors import Unsupported

__all__ = ["check_unpatched"]

# For each library: the module and the function that returns whether a standard module is patched, and its
# arguments.
_LIBRARIES = (
    ("gevent", "gevent.monkey", "is_module_patched", ("threading", "select", "socket")),
    ("eventlet", "eventlet.patcher", "is_monkey_patched", ("thread", "select", "socket")),
)


def check_unpatched(user: str) -> None:
    """Raise Unsupported if the standard library is patched. ``user``, such as "a stub", is for the text.

    Imports nothing.
    """
    for library, module, function, names in _LIBRARIES:
        is_patched = getattr(sys.modules.get(module), function, None)
        patched = [] if is_patched is None else [name for name in names if is_patched(name)]
        if patched:
            raise Unsupported(
                f"{user} needs real threads and epoll, and {library} has patched {', '.join(patched)}: run the "
                f"plugin in a separate process without {library}, or run this process with threads instead of "
                f"{library} (gunicorn: --worker-class gthread), or do not patch these modules"
            )
