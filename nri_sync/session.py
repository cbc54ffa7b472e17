"""One NRI connection: a socket that carries two ttRPC connections, one in each direction.

The two sides differ only in the numbers: the plugin serves the Plugin service on logical connection 1 and calls
the Runtime service on 2; the runtime serves on 2 and calls on 1.
"""

from __future__ import annotations

import functools
import math
import socket
from typing import Callable

from nri_sync.errors import NRIError
from nri_sync.logger import get_logger
from nri_sync.net.link import Job, Link
from nri_sync.net.receiver import Receiver
from nri_sync.rpc.client import ClientEnd
from nri_sync.rpc.late import LatePolicy
from nri_sync.rpc.router import Router
from nri_sync.rpc.server import ServerEnd
from nri_sync.wire.mux import FrameDecoder, decode_whole, frame_message

__all__ = ["Session"]

logger = get_logger("nri_sync.session")


class Session(Receiver):
    """A connection between a runtime and a plugin, for either side. Owns the socket.

    Reading begins with :meth:`Link.run` of :attr:`link`, so that no frame can arrive before the owner is ready.
    """

    def __init__(
        self,
        sock: socket.socket,
        router: Router,
        *,
        serve: int,
        call: int,
        name: str,
        peer: str,
        lost: Callable[[NRIError | None], object],
        tick: Callable[[float], float] | None = None,
        late_policy: LatePolicy | None = None,
        owner: object = None,
        callers_read: bool = False,
        max_threads: int = 64,
    ) -> None:
        """Make the connection; read nothing yet.

        ``serve`` and ``call`` are the ids of the logical connections. ``callers_read`` and ``max_threads`` are
        arguments of the link. ``lost(cause)`` is called once, after the descriptors have been closed.
        ``tick(now)`` is called as :meth:`Receiver.tick`.
        """
        self._on_lost = lost
        self._on_tick = tick
        self.server = ServerEnd(
            router,
            frame=functools.partial(frame_message, serve),
            peer=peer,
            late_policy=late_policy,
            owner=owner,
        )
        self.client = ClientEnd(frame=functools.partial(frame_message, call), name=name)
        self._ends: dict[int, ServerEnd | ClientEnd] = {serve: self.server, call: self.client}
        self._decoder = FrameDecoder()
        #: True if no frame and no message is incomplete. Only the reading thread asks.
        self.between = True
        self.discarded: dict[int, int] = {}
        self.link = Link(sock, self, name=name, callers_read=callers_read, max_threads=max_threads)
        self.server.link = self.client.link = self.link

    def receive(self, data: memoryview, jobs: list[Job]) -> None:
        if self.between:
            whole = decode_whole(data)
            if whole is not None:
                connection_id, message = whole
                end = self._ends.get(connection_id)
                if end is not None:
                    end.receive_message(message, jobs)
                    return
        self._receive_pieces(data, jobs)
        self.between = not (
            self._decoder.inside or any(end.inside_message for end in self._ends.values())
        )

    def _receive_pieces(self, data: memoryview, jobs: list[Job]) -> None:
        for connection_id, piece in self._decoder.receive(data):
            end = self._ends.get(connection_id)
            if end is not None:
                end.receive(piece, jobs)
            else:
                self._discard(connection_id, len(piece))

    def _discard(self, connection_id: int, length: int) -> None:
        # The reference does the same, which makes the mux extensible. At most 16 ids are counted separately.
        key = connection_id if len(self.discarded) < 16 else -1
        if key not in self.discarded:
            logger.warning(
                "%s: data for connection %d, which has no service, is discarded",
                self.link.name,
                connection_id,
            )
        self.discarded[key] = self.discarded.get(key, 0) + length

    def may_block(self) -> bool:
        return self.server.holdings.may_block() or self.client.holdings.may_block()

    def tick(self, now: float) -> float:
        due = math.inf if self._on_tick is None else self._on_tick(now)
        return min(due, self.server.tick(now), self.client.tick(now))

    def lost(self, cause: NRIError | None) -> None:
        for connection_id, length in self.discarded.items():
            logger.debug(
                "%s: %d bytes for connection %d discarded", self.link.name, length, connection_id
            )
        self.server.lost(cause)
        self.client.lost(cause)
        self._on_lost(cause)

    def after_fork_in_child(self) -> None:
        self.server.after_fork_in_child()
        self.client.after_fork_in_child()
