"""Sends the events of tasks to containerd: a ttRPC client, of containerd's own ttRPC socket."""

from __future__ import annotations

import logging
import queue
import threading

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from examples.shim import events_pb2
from examples.shim.process import now
from nri_sync import ttrpc

__all__ = ["Publisher"]

logger = logging.getLogger("shim")

FORWARD = "/containerd.services.events.ttrpc.v1.Events/Forward"
TIMEOUT = 5.0
# containerd may be restarting.
ATTEMPTS = 5
PAUSE = 1.0


class Publisher:
    """Events go out in the order of :meth:`publish`, from one thread."""

    def __init__(self, address: str, namespace: str, *, pause: float = PAUSE) -> None:
        """Connects when there is an event. ``pause`` is in seconds, between attempts."""
        self._address = address
        self._namespace = namespace
        self._pause = pause
        self._channel: grpc.Channel | None = None
        self._waiting: queue.SimpleQueue[events_pb2.Envelope | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._thread.start()

    def publish(self, topic: str, event: Message) -> None:
        """Returns at once. An event that containerd does not take after some attempts is logged and dropped.

        An event comes twice when the connection is lost between its arrival and the answer.
        """
        envelope = events_pb2.Envelope(timestamp=now(), namespace=self._namespace, topic=topic)
        # As containerd writes it: the name of the message alone, where Any.Pack() has a prefix.
        envelope.event.type_url = event.DESCRIPTOR.full_name
        envelope.event.value = event.SerializeToString()
        self._waiting.put(envelope)

    def close(self, timeout: float) -> None:
        """Send the waiting events, for ``timeout`` seconds at most, without pauses between attempts."""
        self._waiting.put(None)
        self._closing.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        for envelope in iter(self._waiting.get, None):
            for _ in range(ATTEMPTS):
                try:
                    self._forward(envelope)
                    break
                except (OSError, ValueError, grpc.RpcError) as error:
                    logger.warning("event %s: %s", envelope.topic, error)
                    self._closing.wait(self._pause)
            else:
                logger.error("event %s is dropped", envelope.topic)
        if self._channel is not None:
            self._channel.close()

    def _forward(self, envelope: events_pb2.Envelope) -> None:
        if self._channel is None:
            self._channel = ttrpc.connect(self._address, timeout=TIMEOUT)
        forward = self._channel.unary_unary(
            FORWARD, events_pb2.ForwardRequest.SerializeToString, Empty.FromString
        )
        try:
            forward(events_pb2.ForwardRequest(envelope=envelope), timeout=TIMEOUT)
        except grpc.RpcError:
            # A ttRPC channel is one connection, and stays lost.
            self._channel.close()
            self._channel = None
            raise
