"""A template for plugins that the runtime must not call at any time, or that need a new session from time to time.

The plugin ends its own session after a number of requests, in the handler of the last one, and periodically, from
a timer. A loop calls ``stub.run()`` again when that is safe: after the plugin's own stops, and after those of the
runtime.
"""

from __future__ import annotations

import argparse
import logging
import signal
import threading
from typing import Any

import nri_sync
from nri_sync import api, errors

__all__ = ["SelfStopping", "main"]

logger = logging.getLogger("self-stopping")


class SelfStopping(nri_sync.Plugin):
    """Counts the containers that are created; see the module for the rest."""

    def __init__(
        self, *, requests: int = 1000, seconds: float = 600.0, pause: float = 1.0, **options: Any
    ) -> None:
        """A session ends after ``requests`` requests or ``seconds`` seconds. The next one begins ``pause`` seconds
        later.

        ``options`` are those of the stub.
        """
        self.stub = nri_sync.Stub(self, **{"name": "self-stopping", "idx": "20", **options})
        self.requests = requests
        self.seconds = seconds
        self.pause = pause
        self.handled = 0
        self._finished = threading.Event()
        self._loop = threading.Thread(target=self._serve, name="self-stopping-loop")
        self._timer = threading.Thread(target=self._stop_regularly, name="self-stopping-timer")

    def create_container(self, pod: api.PodSandbox, container: api.Container) -> api.Adjustment:
        self.handled += 1
        if self.handled % self.requests == 0:
            # In a handler, stop() returns at once. The session ends after the response below has been sent.
            self.stub.stop()
        return api.Adjustment().add_annotation("example.com/number", str(self.handled))

    def begin(self) -> None:
        """Connect, and reconnect until :meth:`finish`."""
        self._loop.start()
        self._timer.start()

    def finish(self) -> None:
        """End the session, and do not reconnect. Blocks until all threads have ended."""
        self._finished.set()
        # Between two sessions stop() has no effect, and the loop may be about to begin the next one.
        while self._loop.is_alive():
            self.stub.stop(grace=1.0)
            self._loop.join(0.1)
        self._timer.join()

    def _serve(self) -> None:
        while not self._finished.is_set():
            try:
                self.stub.run()
                logger.info("stopped by itself, at request %d", self.handled)
            except (errors.ConnectionLost, errors.StartError) as error:
                logger.info("%s", error)
            # Wait here until the runtime may call the plugin again.
            self._finished.wait(self.pause)

    def _stop_regularly(self) -> None:
        while not self._finished.wait(self.seconds):
            # The plugin still answers the requests that it has received, within a second.
            self.stub.stop(grace=1.0)


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--socket", help="the runtime's socket; default is /var/run/nri/nri.sock")
    parser.add_argument("--requests", type=int, default=1000, help="the limit of a session")
    parser.add_argument("--seconds", type=float, default=600.0, help="the limit of a session")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

    ends = {signal.SIGTERM, signal.SIGINT}
    # Blocked in this thread and, by inheritance, in all new ones, so that sigwait() gets the signals.
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    plugin = SelfStopping(
        requests=options.requests, seconds=options.seconds, socket_path=options.socket
    )
    plugin.begin()
    signal.sigwait(ends)
    plugin.finish()


if __name__ == "__main__":
    main()
