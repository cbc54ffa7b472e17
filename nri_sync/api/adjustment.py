"""The changes that a plugin requests for a container that is being created.

An Adjustment builds a ContainerAdjustment message. A handler returns either of them. Plain messages invite
mistakes that have no error: a setting in the wrong one of three nested messages, a value without presence, a
removal without its mark, a value that the wire cannot carry. The setters check for these mistakes. They raise
ValueError for a value that the wire cannot carry, for a value that no runtime accepts, for an empty value without
a meaning, and for a second, different value of a key. A removal and a value of the same key may be combined, in
either order. A call that raises changes nothing. For settings without a setter, the attribute ``message`` is the
message itself::

    adjustment = Adjustment()
    adjustment.add_env("GREETING", "hello").remove_env("DEBUG")
    adjustment.add_mount("/data", source="/srv/data", type="bind", options=["bind", "ro"])
    adjustment.set_cpu(cpus="2-3", shares=512).set_memory(limit=512 << 20)
    return adjustment

Setters return the object itself. An Adjustment is not thread-safe.

If two plugins set the same field of one container, they conflict, and the creation fails. A removal in the same
adjustment avoids the conflict: it takes the field over from the other plugin.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, SupportsIndex

from nri_sync.api import _check, optional, removal, repeats, rules
from nri_sync.api.nri_pb2 import (
    CDIDevice,
    ContainerAdjustment,
    Hook,
    Hooks,
    IOPrioClass,
    KeyValue,
    LinuxDevice,
    LinuxIOPriority,
    LinuxMemoryPolicy,
    LinuxNamespace,
    LinuxNetDevice,
    LinuxResources,
    LinuxScheduler,
    LinuxSchedulerFlag,
    LinuxSchedulerPolicy,
    LinuxSeccomp,
    Mount,
    MpolFlag,
    MpolMode,
    POSIXRlimit,
)
from nri_sync.api.resources import ResourceSettings, put_all

__all__ = ["Adjustment", "HookStage"]

HookStage = Literal[
    "prestart", "create_runtime", "create_container", "start_container", "poststart", "poststop"
]


class Adjustment(ResourceSettings):
    """Builds a ContainerAdjustment. It starts with an empty message or with ``message``, which is not copied."""

    def __init__(self, message: ContainerAdjustment | None = None) -> None:
        #: The message that the setters write to.
        self.message = ContainerAdjustment() if message is None else message
        self._entries = repeats.Entries()

    @property
    def resources(self) -> LinuxResources:
        return self.message.linux.resources

    def __repr__(self) -> str:
        return f"Adjustment({' '.join(str(self.message).split())})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Adjustment) and self.message == other.message

    __hash__ = None  # type: ignore[assignment]

    def add_annotation(self, key: str, value: str) -> Adjustment:
        rules.annotation_key(_check.unmarked("annotation key", key, "remove_annotation"))
        checked = _check.text(f"annotation {_check.show(key)}", value)
        repeats.assign(self.message.annotations, key, checked, "annotation")
        return self

    def remove_annotation(self, key: str) -> Adjustment:
        """Remove an annotation of the original container.

        An annotation of an earlier plugin stays, unless this adjustment sets a new value.
        """
        marked = removal.mark(key)
        rules.annotation_key(key)
        self.message.annotations[marked] = ""
        return self

    def add_mount(
        self, destination: str, *, source: str = "", type: str = "", options: Iterable[str] = ()
    ) -> Adjustment:
        """Add a mount at a path in the container. ``options`` are those of mount(8)."""
        _check.unmarked("mount destination", destination, "remove_mount")
        mount = Mount(
            destination=destination,
            source=_check.text("Mount.source", source),
            type=_check.text("Mount.type", type),
            options=_check.texts("Mount.options", options),
        )
        rules.mount(mount)
        self._entries.add(self.message.mounts, mount)
        return self

    def remove_mount(self, destination: str) -> Adjustment:
        """Remove the mount at a destination. Destinations are compared literally: ``/data`` is not ``/data/``."""
        mount = Mount(destination=removal.mark(destination))
        rules.absolute("mount destination", destination)
        self._entries.add(self.message.mounts, mount)
        return self

    def add_env(self, key: str, value: str) -> Adjustment:
        _check.unmarked("environment key", key, "remove_env")
        checked = _check.text(f"environment variable {_check.show(key)}", value)
        rules.env(key, checked)
        self._entries.add(self.message.env, KeyValue(key=key, value=checked))
        return self

    def remove_env(self, key: str) -> Adjustment:
        """Remove a variable that an earlier plugin has set.

        A variable of the original container stays, because containerd and CRI-O drop its removal when they merge
        the answers. ``add_env`` can give it another value.
        """
        variable = KeyValue(key=removal.mark(key))
        rules.env_key(key)
        self._entries.add(self.message.env, variable)
        return self

    def set_args(self, args: Iterable[str]) -> Adjustment:
        """Replace the command line. Conflicts with another plugin that has replaced it."""
        checked = _check.texts("args", args)
        if checked[:1] == [""]:
            raise ValueError("args starts with an empty text, which NRI treats as replace_args")
        rules.args("args", checked)
        self.message.args[:] = checked
        return self

    def replace_args(self, args: Iterable[str]) -> Adjustment:
        """Replace the command line, even if another plugin has replaced it.

        Without arguments, withdraw the command line of the other plugin: the container keeps its original one.
        """
        checked = _check.texts("args", args)
        if checked:
            rules.args("args", checked)
        # An empty first argument takes the field over from another plugin.
        self.message.args[:] = ["", *checked]
        return self

    def add_hook(
        self,
        stage: HookStage,
        path: str,
        *,
        args: Iterable[str] = (),
        env: Iterable[str] = (),
        timeout: SupportsIndex | None = None,
    ) -> Adjustment:
        """Run a program of the host at a stage of the container's life.

        ``args[0]`` is the name of the program, ``env`` has ``KEY=value`` entries, and ``timeout`` is in seconds. A
        hook that is added twice runs twice.
        """
        hook = Hook(
            path=_check.text("Hook.path", path),
            args=_check.texts("Hook.args", args),
            env=_check.texts("Hook.env", env),
        )
        optional.put(hook, "timeout", timeout)
        rules.hook(hook)
        if stage not in Hooks.DESCRIPTOR.fields_by_name:
            stages = ", ".join(Hooks.DESCRIPTOR.fields_by_name)
            raise ValueError(f"hook stage must be one of {stages}, not {_check.show(stage)}")
        getattr(self.message.hooks, stage).append(hook)
        return self

    def add_hooks(self, hooks: Hooks) -> Adjustment:
        """Add the hooks of all stages; ``hooks`` is copied."""
        if not isinstance(hooks, Hooks):
            _check.wrong_type("hooks", "a Hooks message", hooks)
        for _, added in hooks.ListFields():
            for hook in added:
                rules.hook(hook)
        self.message.hooks.MergeFrom(hooks)
        self.message.hooks.SetInParent()
        return self

    def add_rlimit(self, type: str, *, hard: SupportsIndex, soft: SupportsIndex) -> Adjustment:
        """Set a POSIX limit such as ``"RLIMIT_NOFILE"``."""
        limit = POSIXRlimit(
            type=_check.text("POSIXRlimit.type", type),
            hard=_check.integer("POSIXRlimit.hard", hard, _check.UINT64),
            soft=_check.integer("POSIXRlimit.soft", soft, _check.UINT64),
        )
        rules.rlimit(limit)
        self._entries.add(self.message.rlimits, limit)
        return self

    def add_device(
        self,
        path: str,
        type: str,
        major: SupportsIndex,
        minor: SupportsIndex,
        *,
        file_mode: SupportsIndex | None = None,
        uid: SupportsIndex | None = None,
        gid: SupportsIndex | None = None,
    ) -> Adjustment:
        """Create a device node; ``type`` is ``"c"``, ``"b"``, ``"u"`` or ``"p"``, as for mknod(1)."""
        _check.unmarked("device path", path, "remove_device")
        device = LinuxDevice(
            path=path,
            type=_check.text("LinuxDevice.type", type),
            major=_check.integer("LinuxDevice.major", major, _check.INT64),
            minor=_check.integer("LinuxDevice.minor", minor, _check.INT64),
        )
        optional.put(device, "file_mode", file_mode)
        optional.put(device, "uid", uid)
        optional.put(device, "gid", gid)
        rules.device(device)
        self._entries.add(self.message.linux.devices, device)
        return self

    def remove_device(self, path: str) -> Adjustment:
        """Remove a device that an earlier plugin has added.

        A device of the original container stays, because containerd and CRI-O drop its removal when they merge the
        answers. ``add_device`` can replace it.
        """
        device = LinuxDevice(path=removal.mark(path))
        rules.absolute("device path", path)
        self._entries.add(self.message.linux.devices, device)
        return self

    def add_cdi_device(self, name: str) -> Adjustment:
        """Add a device of the Container Device Interface, ``"vendor.com/class=name"``."""
        rules.cdi_device(_check.text("CDIDevice.name", name))
        self._entries.add(self.message.CDI_devices, CDIDevice(name=name))
        return self

    def set_namespace(self, type: str, path: str = "") -> Adjustment:
        """Replace a namespace of the container by the one at ``path``, or by a new one without a path.

        ``type`` is a type of the OCI runtime specification: pid, network, mount, ipc, uts, user, cgroup, time.
        """
        namespace = LinuxNamespace(
            type=_check.unmarked("namespace type", type, "remove_namespace"),
            path=_check.text("LinuxNamespace.path", path),
        )
        rules.namespace(type, path)
        self._entries.add(self.message.linux.namespaces, namespace)
        return self

    def remove_namespace(self, type: str) -> Adjustment:
        """Share the host's namespace of this type."""
        namespace = LinuxNamespace(type=removal.mark(type))
        rules.namespace_type(type)
        self._entries.add(self.message.linux.namespaces, namespace)
        return self

    def add_net_device(self, host_name: str, name: str = "") -> Adjustment:
        """Move a network interface of the host into the container, and rename it to ``name`` if given."""
        rules.net_device(_check.unmarked("network device", host_name, "remove_net_device"))
        device = LinuxNetDevice(name=_check.text("LinuxNetDevice.name", name))
        if name:
            rules.net_device(name)
        repeats.assign_message(self.message.linux.net_devices, host_name, device, "network device")
        return self

    def remove_net_device(self, host_name: str) -> Adjustment:
        """Remove a network device of the original container.

        A network device of an earlier plugin stays, unless this adjustment sets a new one.
        """
        marked = removal.mark(host_name)
        rules.net_device(host_name)
        self.message.linux.net_devices[marked].Clear()
        return self

    def set_sysctl(self, key: str, value: str) -> Adjustment:
        _check.unmarked("sysctl", key, "remove_sysctl")
        checked = _check.text(f"sysctl {_check.show(key)}", value)
        rules.sysctl(key, checked)
        repeats.assign(self.message.linux.sysctl, key, checked, "sysctl")
        return self

    def remove_sysctl(self, key: str) -> Adjustment:
        """Remove a sysctl of the original container.

        A sysctl of an earlier plugin stays, unless this adjustment sets a new value.
        """
        marked = removal.mark(key)
        rules.sysctl_key(key)
        self.message.linux.sysctl[marked] = ""
        return self

    def set_cgroups_path(self, path: str) -> Adjustment:
        """Put the container into another cgroup."""
        rules.cgroups_path(_check.text("cgroups_path", path))
        self.message.linux.cgroups_path = path
        return self

    def set_oom_score_adj(self, score: SupportsIndex | None) -> Adjustment:
        """Make the kernel kill the container sooner (up to 1000) or later (down to -1000).

        None removes the setting from the adjustment.
        """
        field = "oom_score_adj"
        if score is not None:
            rules.oom_score_adj(optional.check(self.message.linux, field, score))
        optional.put(self.message.linux, field, score)
        return self

    def set_io_priority(
        self, io_class: IOPrioClass | str | int, priority: SupportsIndex = 0
    ) -> Adjustment:
        """Set a class such as ``"IOPRIO_CLASS_BE"``, and a level in it from 0 (highest) to 7 (lowest)."""
        message = LinuxIOPriority(
            priority=_check.integer("LinuxIOPriority.priority", priority, _check.INT32),
            # `class` is a keyword of Python.
            **{"class": _check.enumerator("LinuxIOPriority.class", IOPrioClass, io_class)},
        )
        rules.io_priority(message)
        self.message.linux.io_priority.CopyFrom(message)
        return self

    def set_scheduler(
        self,
        policy: LinuxSchedulerPolicy | str | int,
        *,
        nice: SupportsIndex = 0,
        priority: SupportsIndex = 0,
        flags: Iterable[LinuxSchedulerFlag | str | int] = (),
        runtime: SupportsIndex = 0,
        deadline: SupportsIndex = 0,
        period: SupportsIndex = 0,
    ) -> Adjustment:
        """Set the attributes of sched_setattr(2), such as the policy ``"SCHED_FIFO"``.

        Times are in nanoseconds.
        """
        name = "LinuxScheduler"
        message = LinuxScheduler(
            policy=_check.enumerator(f"{name}.policy", LinuxSchedulerPolicy, policy),
            flags=_check.enumerators(f"{name}.flags", LinuxSchedulerFlag, flags),
            nice=_check.integer(f"{name}.nice", nice, _check.INT32),
            priority=_check.integer(f"{name}.priority", priority, _check.INT32),
            runtime=_check.integer(f"{name}.runtime", runtime, _check.UINT64),
            deadline=_check.integer(f"{name}.deadline", deadline, _check.UINT64),
            period=_check.integer(f"{name}.period", period, _check.UINT64),
        )
        rules.scheduler(message)
        self.message.linux.scheduler.CopyFrom(message)
        return self

    def set_memory_policy(
        self,
        mode: MpolMode | str | int,
        nodes: str = "",
        flags: Iterable[MpolFlag | str | int] = (),
    ) -> Adjustment:
        """Set the attributes of set_mempolicy(2): the mode, for example ``"MPOL_BIND"``, the nodes and the flags.

        ``nodes`` is a list such as ``"0-1"``.
        """
        name = "LinuxMemoryPolicy"
        message = LinuxMemoryPolicy(
            mode=_check.enumerator(f"{name}.mode", MpolMode, mode),
            nodes=_check.text(f"{name}.nodes", nodes),
            flags=_check.enumerators(f"{name}.flags", MpolFlag, flags),
        )
        rules.memory_policy(message)
        self.message.linux.memory_policy.CopyFrom(message)
        return self

    def set_seccomp_policy(self, policy: LinuxSeccomp) -> Adjustment:
        """Replace the seccomp filter. ``policy`` is copied. oci.seccomp_from_oci makes such a message."""
        if not isinstance(policy, LinuxSeccomp):
            _check.wrong_type("policy", "a LinuxSeccomp message", policy)
        rules.seccomp(policy)
        self.message.linux.seccomp_policy.CopyFrom(policy)
        return self

    def set_rdt(
        self,
        *,
        clos_id: str | None = None,
        schemata: Iterable[str] | None = None,
        enable_monitoring: bool | None = None,
    ) -> Adjustment:
        """Set parts of cache and memory bandwidth control. None leaves a part unchanged.

        An empty ``schemata`` sets an empty list.
        """
        put_all(
            self.message.linux.rdt,
            {"clos_id": clos_id, "schemata": schemata, "enable_monitoring": enable_monitoring},
            lambda rdt: rules.rdt(optional.get(rdt, "clos_id"), optional.get(rdt, "schemata")),
        )
        return self

    def remove_rdt(self) -> Adjustment:
        """Remove the container's RDT settings, before the settings of this adjustment are applied."""
        self.message.linux.rdt.remove = True
        return self
