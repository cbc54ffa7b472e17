"""Test plugins without containerd, root or a cluster, with pytest or without it.

:class:`FakeRuntime` is a runtime with pods and containers, which :func:`make_pod` and :func:`make_container`
create. A :class:`Result` has the changes that plugins request. A :class:`ScriptedRuntime` misbehaves according to
its :mod:`.steps`. A :class:`FaultProxy` breaks the connection of a plugin at a chosen byte. :func:`replay` sends
the recorded requests of a real runtime to a plugin. The pytest fixtures are ``nri_runtime`` and ``nri_plugin``.
"""

from __future__ import annotations

from nri_sync.testing import steps
from nri_sync.testing.builders import make_container, make_pod
from nri_sync.testing.fake import FakeRuntime, StartPlugin
from nri_sync.testing.faults import FAULT_KINDS, Fault, FaultProxy, FaultyConnection
from nri_sync.testing.recordings import Recording, replay
from nri_sync.testing.remote import RemotePlugin
from nri_sync.testing.removals import NoEffectWarning
from nri_sync.testing.result import Answer, Changes, Result
from nri_sync.testing.scripted import ScriptedRuntime
from nri_sync.testing.steps import hostile_sessions

__all__ = [
    "FAULT_KINDS",
    "Answer",
    "Changes",
    "FakeRuntime",
    "Fault",
    "FaultProxy",
    "FaultyConnection",
    "NoEffectWarning",
    "Recording",
    "RemotePlugin",
    "Result",
    "ScriptedRuntime",
    "StartPlugin",
    "hostile_sessions",
    "make_container",
    "make_pod",
    "replay",
    "steps",
]
