"""How one instance of a plugin takes over from another on the same node: :class:`Handover`.

Two files in a directory that both instances have::

    NAME.turn   locked by the instance that serves
    NAME.next   locked by the instance that is to follow

The steps of a handover, as each word appears in a file:

1. The new instance locks NAME.next and stands by: it is connected to nothing.
2. The old instance is closed. Before it ends its session, it writes "leaving" to NAME.turn.
3. The new instance connects and registers. In Configure it writes "registered" to NAME.next, and in Synchronize
   "ready".
4. The old instance ends its session, writes its state, and lets go of NAME.turn.
5. The new instance locks NAME.turn and lets its plugin handle Synchronize.

From the registration of a plugin until it is synchronized, runtimes begin to create nothing: the synchronization
waits for creations and stops that have begun, and later ones wait for the synchronization (the ``syncLock`` of
NRI's adaptation, a Go RWMutex). Hence nothing is created between the two sessions, or adjusted by both.

The old instance cannot always wait for "ready": where a kubelet stops its container, containerd synchronizes no
plugin before that container has ended (``BlockPluginSync`` in StopContainer). After "registered" it also leaves
when no request has come for a second, as the creations that have begun have made their requests by then.

If either instance fails in one of the steps, its locks go with it, or the other one stops waiting after a time.
"""

from __future__ import annotations

import _thread
import errno
import os
import time
from typing import TYPE_CHECKING, Any, Callable

from nri_sync.deadline import Deadline
from nri_sync.errors import TurnTaken
from nri_sync.files import check_directory
from nri_sync.logger import get_logger
from nri_sync.plugin.interceptors import Interceptor, Proceed
from nri_sync.plugin.turns import Silence, Turn

if TYPE_CHECKING:
    from nri_sync.plugin.stub import Stub
    from nri_sync.rpc.context import RequestContext

__all__ = ["QUIET", "Handover"]

logger = get_logger("nri_sync.handover")

_WAITING, _REGISTERED, _READY = b"waiting", b"registered", b"ready"
_SERVING, _LEAVING = b"serving", b"leaving"

# How often an instance looks at the files of the other one, in seconds: standing by, and in step 3 and 4.
_POLL = 0.01
_POLL_SOON = 0.002
# Without a request for so many seconds, the old instance is not needed for anything that is being created.
QUIET = 1.0
# How much of its time the old instance waits for step 3, and seconds where it has no limit. A busy node takes
# seconds for all that it is creating.
_LEAVE_SHARE = 0.8
_LEAVE = 10.0
# How much of the request timeout the new instance gives to step 4: Synchronize has to be answered in time.
_SHARE = 0.5


class Handover(Interceptor):
    """Lets one instance of a plugin at a time serve, on a node; to be passed to the stub.

    ::

        stub = nri_sync.Stub(plugin, interceptors=[nri_sync.Handover("/run/nri-plugins")])
        nri_sync.run_forever(stub)

    Instances are those of the same plugin name, with any index. :func:`nri_sync.run_forever` and
    :func:`nri_sync.kit.main` stand by, connected to nothing, while another instance serves. They register when
    that instance is about to end, and become the ones that serve when its session has ended. A stub that is
    started otherwise does not stand by.

    Pass it before the other interceptors: :meth:`Stub.close` closes it last, when the others have written their
    state and sent their updates. An instance that ends by ``Stub.stop()`` does not wait for the other one.

    One for each stub. All methods may be called from any thread.
    """

    def __init__(self, directory: str | os.PathLike[str], *, patience: float = 15.0) -> None:
        """
        Args:
            directory: exists, on a file system of the node, and is writable for all instances.
            patience: seconds without a sign of life, after which another instance counts as hanging and is
                replaced. The loop of ``run_forever`` gives a sign each second: ``patience`` must be longer than a
                start, and than the callbacks of the loop.

        Raises:
            OSError: the directory cannot be written to, or other users can replace files in it (PermissionError).
            ValueError: ``patience`` is not positive.
        """
        if not patience > 0:
            raise ValueError(f"patience must be positive, not {patience!r}")
        self.directory = os.fspath(directory)
        self._patience = patience
        self._stub: Stub | None = None
        self._is_waiting = False
        self._listeners: list[Callable[[], object]] = []
        # The requests that are being served, by thread. Each step on it is a single one.
        self._requests: dict[int, None] = {}
        self._last_request = 0.0
        # Fails here, and not in the loop.
        os.close(os.open(os.path.join(self.directory, "."), os.O_RDONLY | os.O_DIRECTORY))
        if not os.access(self.directory, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), self.directory)
        check_directory(self.directory)

    def attach(self, stub: Stub) -> None:
        """Learn the name of the plugin; the stub calls it. Raises ValueError when another stub is attached."""
        if self._stub not in (None, stub):
            raise ValueError(
                f"{self._stub!r} is attached already; each stub needs a Handover of its own"
            )
        if self._stub is None:
            self._turn = Turn(os.path.join(self.directory, f"{stub.base_name}.turn"))
            self._next = Turn(os.path.join(self.directory, f"{stub.base_name}.next"))
            self._stub = stub

    @property
    def is_waiting(self) -> bool:
        """Whether this instance stands by."""
        return self._is_waiting

    def on_change(self, listener: Callable[[], object]) -> None:
        """Have ``listener()`` called when :attr:`is_waiting` has changed. It must not block."""
        self._listeners.append(listener)

    # For the loop that keeps the stub connected

    def wait(self, is_over: Callable[[], bool]) -> bool:
        """Stand by until this instance may connect (True), or until ``is_over()`` (False). Blocks."""
        if self._turn.is_held:
            return True
        serving, following = Silence(self._turn), Silence(self._next)
        failing = ""
        while not is_over():
            try:
                if self._may_connect(serving, following):
                    return True
            except OSError as error:
                if str(error) != failing:
                    failing = str(error)
                    logger.error("%s: standing by, and cannot look further: %s", self._name, error)
            if not self._is_waiting:
                logger.info("%s: standing by, as another instance serves", self._name)
                self._set_waiting(True)
            time.sleep(_POLL)
        self._next.drop()
        self._set_waiting(False)
        return False

    def keep(self) -> None:
        """Give a sign of life. Raises TurnTaken when another instance has taken over."""
        if self._turn.is_held and not self._turn.is_mine():
            self._turn.drop()
            raise TurnTaken(
                f"plugin {self._name}: another instance has taken over, as this one gave no sign of life"
            )
        self._turn.sign()
        self._next.sign()

    def release(self) -> None:
        """Let another instance serve. Called when the session has ended and the state is written."""
        self._turn.drop()
        self._next.drop()
        self._set_waiting(False)

    # Of an interceptor

    def serve(self, event: str, request: Any, context: RequestContext, proceed: Proceed) -> Any:
        if event == "Synchronize" and not self._turn.is_held:
            try:
                self._follow()
            except OSError as error:
                logger.error("%s: serving without a lock: %s", self._name, error)
        thread = _thread.get_ident()
        self._requests[thread] = None
        try:
            return proceed(request, context)
        finally:
            self._last_request = time.monotonic()
            self._requests.pop(thread, None)
            if event == "Configure":
                self._next.sign(_REGISTERED)

    def close(self, timeout: float | None = 5.0) -> None:
        """Keep the session until the next instance is ready to take over, if there is one.

        Blocks for four fifths of ``timeout`` seconds at most; ten seconds for None.
        """
        deadline = Deadline(_LEAVE if timeout is None else _LEAVE_SHARE * timeout)
        registered: float | None = None
        try:
            while not deadline.expired:
                word = self._next_word()
                if word in (None, _READY) or self._is_quiet(registered):
                    return
                if word == _REGISTERED and registered is None:
                    registered = time.monotonic()
                self._turn.sign(_LEAVING)
                time.sleep(_POLL_SOON)
        except OSError as error:
            logger.error("%s: leaving without a handover: %s", self._name, error)

    # Its parts

    @property
    def _name(self) -> str:
        return "" if self._stub is None else self._stub.name

    def _set_waiting(self, is_waiting: bool) -> None:
        if self._is_waiting != is_waiting:
            self._is_waiting = is_waiting
            for listener in self._listeners:
                listener()

    def _next_word(self) -> bytes | None:
        """The state of the instance to follow; None where there is none, or this instance does not serve."""
        if self._stub is None or not self._turn.is_held or not self._stub.started:
            return None
        if self._next.take():
            self._next.drop()
            return None
        return self._next.read()[0]

    def _is_quiet(self, registered: float | None) -> bool:
        """Whether no request has come for a time, since the next instance is registered."""
        if registered is None or self._requests:
            return False
        return time.monotonic() - max(registered, self._last_request) > QUIET

    def _may_connect(self, serving: Silence, following: Silence) -> bool:
        """Whether it is this instance's turn, or about to be."""
        if not self._next.is_mine():
            self._next.drop()
            if not self._next.take():
                if following.seconds() < self._patience:
                    return False
                logger.error("%s: another instance that stands by hangs: replacing it", self._name)
                self._next.take_over()
        self._next.sign(_WAITING)
        if self._turn.take():
            self._begin()
            return True
        if self._turn.read()[0] == _LEAVING:
            return True
        if serving.seconds() < self._patience:
            return False
        logger.error(
            "%s: the instance that serves has given no sign of life for %g s: taking over; containers that both "
            "adjust may fail until it has ended",
            self._name, self._patience,
        )  # fmt: skip
        self._turn.take_over()
        self._begin()
        return True

    def _follow(self) -> None:
        """In Synchronize, while the other instance is leaving: steps 3 to 5."""
        assert self._stub is not None
        self._next.sign(_READY)
        deadline = Deadline(_SHARE * self._stub.request_timeout)
        while not (self._turn.is_held or self._turn.take()):
            if deadline.expired:
                logger.warning(
                    "%s: the other instance takes long to end: taking over before it has ended",
                    self._name,
                )
                self._turn.take_over()
                break
            time.sleep(_POLL_SOON)
        self._begin()

    def _begin(self) -> None:
        self._turn.sign(_SERVING)
        self._next.drop()
        self._set_waiting(False)
