"""The toolkit for plugins: configuration, programs, logs, health, inventory, updates and field parsers.

Each part works without the others. The parts use the public API and the building blocks of
docs/building-blocks.md, so a toolkit of another author can use the same. A name is imported at its first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nri_sync.kit.background.background import Background, Task
    from nri_sync.kit.background.pool import BackgroundCounters
    from nri_sync.kit.chains import chain
    from nri_sync.kit.config.durations import parse_duration
    from nri_sync.kit.config.live import LiveConfig
    from nri_sync.kit.config.loading import Bytes, Cpus, Duration, load
    from nri_sync.kit.fields.annotations import (
        Annotation,
        Annotations,
        document_of,
        list_of,
        one_of,
        parse_bool,
        parse_int,
        parse_json,
        parse_list,
        parse_yaml,
    )
    from nri_sync.kit.fields.cgroups import (
        CgroupRoot,
        cgroup_name,
        cgroup_path,
        container_cgroup,
        expand_slice,
        pod_cgroup,
        pod_uid_of_cgroup,
        process_cgroup,
    )
    from nri_sync.kit.fields.cpu import (
        format_cpus,
        milli_to_quota,
        milli_to_shares,
        parse_cpus,
        quota_to_milli,
        shares_to_milli,
        shares_to_weight,
        weight_to_shares,
    )
    from nri_sync.kit.fields.devices import host_device, require_allowed
    from nri_sync.kit.fields.env import container_env, set_env
    from nri_sync.kit.fields.images import ContainerImage, ImageReference, container_image
    from nri_sync.kit.fields.names import container_name
    from nri_sync.kit.fields.netns import network_namespace
    from nri_sync.kit.fields.patterns import Pattern
    from nri_sync.kit.fields.qos import (
        QoS,
        container_qos,
        estimate_memory_request,
        kubelet_cgroup_parent,
        memory_high,
        oom_score_adj,
        pod_qos,
        qos_of_resources,
    )
    from nri_sync.kit.fields.quantity import Quantity, QuantityFormat
    from nri_sync.kit.fields.runtimes import RuntimeId, runtime_of_request
    from nri_sync.kit.fields.selectors import LabelSelector, Requirement, Selector
    from nri_sync.kit.health.file import HealthFile
    from nri_sync.kit.health.health import Health, HealthReport, HealthState
    from nri_sync.kit.health.metrics import RequestMetrics
    from nri_sync.kit.health.server import HealthServer
    from nri_sync.kit.intercept import RequestInterceptor
    from nri_sync.kit.inventory.index import Changes, Snapshot
    from nri_sync.kit.inventory.inventory import Inventory
    from nri_sync.kit.inventory.records import ContainerRecord, PodRecord
    from nri_sync.kit.inventory.store import InventoryStore
    from nri_sync.kit.logs.context import (
        ContextFilter,
        LogContext,
        in_context,
        log_context,
        log_scope,
    )
    from nri_sync.kit.logs.formatters import JSONFormatter, TextFormatter
    from nri_sync.kit.logs.logs import RequestLogging, setup_logging
    from nri_sync.kit.program.definition import Assembly, Program
    from nri_sync.kit.program.exits import ExitCode
    from nri_sync.kit.program.options import Options, add_options
    from nri_sync.kit.program.program import main, run
    from nri_sync.kit.program.supervisor import Supervisor
    from nri_sync.kit.program.systemd import Notifier
    from nri_sync.kit.tracing import RequestTracing
    from nri_sync.kit.updates.pending import PendingUpdate
    from nri_sync.kit.updates.queue import UpdateCounters, UpdateQueue

__all__ = [
    "Annotation",
    "Annotations",
    "Assembly",
    "Background",
    "BackgroundCounters",
    "Bytes",
    "CgroupRoot",
    "Changes",
    "ContainerImage",
    "ContainerRecord",
    "ContextFilter",
    "Cpus",
    "Duration",
    "ExitCode",
    "Health",
    "HealthFile",
    "HealthReport",
    "HealthServer",
    "HealthState",
    "ImageReference",
    "Inventory",
    "InventoryStore",
    "JSONFormatter",
    "LabelSelector",
    "LiveConfig",
    "LogContext",
    "Notifier",
    "Options",
    "Pattern",
    "PendingUpdate",
    "PodRecord",
    "Program",
    "QoS",
    "Quantity",
    "QuantityFormat",
    "RequestInterceptor",
    "RequestLogging",
    "RequestMetrics",
    "RequestTracing",
    "Requirement",
    "RuntimeId",
    "Selector",
    "Snapshot",
    "Supervisor",
    "Task",
    "TextFormatter",
    "UpdateCounters",
    "UpdateQueue",
    "add_options",
    "cgroup_name",
    "cgroup_path",
    "chain",
    "container_cgroup",
    "container_env",
    "container_image",
    "container_name",
    "container_qos",
    "document_of",
    "estimate_memory_request",
    "expand_slice",
    "format_cpus",
    "host_device",
    "in_context",
    "kubelet_cgroup_parent",
    "list_of",
    "load",
    "log_context",
    "log_scope",
    "main",
    "memory_high",
    "milli_to_quota",
    "milli_to_shares",
    "network_namespace",
    "one_of",
    "oom_score_adj",
    "parse_bool",
    "parse_cpus",
    "parse_duration",
    "parse_int",
    "parse_json",
    "parse_list",
    "parse_yaml",
    "pod_cgroup",
    "pod_qos",
    "pod_uid_of_cgroup",
    "process_cgroup",
    "qos_of_resources",
    "quota_to_milli",
    "require_allowed",
    "run",
    "runtime_of_request",
    "set_env",
    "setup_logging",
    "shares_to_milli",
    "shares_to_weight",
    "weight_to_shares",
]

# The modules of the names above. No name may be that of a module of this package, whose import would replace it.
_HOMES = {
    "Annotation": "nri_sync.kit.fields.annotations",
    "Annotations": "nri_sync.kit.fields.annotations",
    "Assembly": "nri_sync.kit.program.definition",
    "Background": "nri_sync.kit.background.background",
    "BackgroundCounters": "nri_sync.kit.background.pool",
    "Bytes": "nri_sync.kit.config.loading",
    "CgroupRoot": "nri_sync.kit.fields.cgroups",
    "Changes": "nri_sync.kit.inventory.index",
    "ContainerImage": "nri_sync.kit.fields.images",
    "ContainerRecord": "nri_sync.kit.inventory.records",
    "ContextFilter": "nri_sync.kit.logs.context",
    "Cpus": "nri_sync.kit.config.loading",
    "Duration": "nri_sync.kit.config.loading",
    "ExitCode": "nri_sync.kit.program.exits",
    "Health": "nri_sync.kit.health.health",
    "HealthFile": "nri_sync.kit.health.file",
    "HealthReport": "nri_sync.kit.health.health",
    "HealthServer": "nri_sync.kit.health.server",
    "HealthState": "nri_sync.kit.health.health",
    "ImageReference": "nri_sync.kit.fields.images",
    "Inventory": "nri_sync.kit.inventory.inventory",
    "InventoryStore": "nri_sync.kit.inventory.store",
    "JSONFormatter": "nri_sync.kit.logs.formatters",
    "LabelSelector": "nri_sync.kit.fields.selectors",
    "LiveConfig": "nri_sync.kit.config.live",
    "LogContext": "nri_sync.kit.logs.context",
    "Notifier": "nri_sync.kit.program.systemd",
    "Options": "nri_sync.kit.program.options",
    "Pattern": "nri_sync.kit.fields.patterns",
    "PendingUpdate": "nri_sync.kit.updates.pending",
    "PodRecord": "nri_sync.kit.inventory.records",
    "Program": "nri_sync.kit.program.definition",
    "QoS": "nri_sync.kit.fields.qos",
    "Quantity": "nri_sync.kit.fields.quantity",
    "QuantityFormat": "nri_sync.kit.fields.quantity",
    "RequestInterceptor": "nri_sync.kit.intercept",
    "RequestLogging": "nri_sync.kit.logs.logs",
    "RequestMetrics": "nri_sync.kit.health.metrics",
    "RequestTracing": "nri_sync.kit.tracing",
    "Requirement": "nri_sync.kit.fields.selectors",
    "RuntimeId": "nri_sync.kit.fields.runtimes",
    "Selector": "nri_sync.kit.fields.selectors",
    "Snapshot": "nri_sync.kit.inventory.index",
    "Supervisor": "nri_sync.kit.program.supervisor",
    "Task": "nri_sync.kit.background.background",
    "TextFormatter": "nri_sync.kit.logs.formatters",
    "UpdateCounters": "nri_sync.kit.updates.queue",
    "UpdateQueue": "nri_sync.kit.updates.queue",
    "add_options": "nri_sync.kit.program.options",
    "cgroup_name": "nri_sync.kit.fields.cgroups",
    "cgroup_path": "nri_sync.kit.fields.cgroups",
    "chain": "nri_sync.kit.chains",
    "container_cgroup": "nri_sync.kit.fields.cgroups",
    "container_env": "nri_sync.kit.fields.env",
    "container_image": "nri_sync.kit.fields.images",
    "container_name": "nri_sync.kit.fields.names",
    "container_qos": "nri_sync.kit.fields.qos",
    "document_of": "nri_sync.kit.fields.annotations",
    "estimate_memory_request": "nri_sync.kit.fields.qos",
    "expand_slice": "nri_sync.kit.fields.cgroups",
    "format_cpus": "nri_sync.kit.fields.cpu",
    "host_device": "nri_sync.kit.fields.devices",
    "in_context": "nri_sync.kit.logs.context",
    "kubelet_cgroup_parent": "nri_sync.kit.fields.qos",
    "list_of": "nri_sync.kit.fields.annotations",
    "load": "nri_sync.kit.config.loading",
    "log_context": "nri_sync.kit.logs.context",
    "log_scope": "nri_sync.kit.logs.context",
    "main": "nri_sync.kit.program.program",
    "memory_high": "nri_sync.kit.fields.qos",
    "milli_to_quota": "nri_sync.kit.fields.cpu",
    "milli_to_shares": "nri_sync.kit.fields.cpu",
    "network_namespace": "nri_sync.kit.fields.netns",
    "one_of": "nri_sync.kit.fields.annotations",
    "oom_score_adj": "nri_sync.kit.fields.qos",
    "parse_bool": "nri_sync.kit.fields.annotations",
    "parse_cpus": "nri_sync.kit.fields.cpu",
    "parse_duration": "nri_sync.kit.config.durations",
    "parse_int": "nri_sync.kit.fields.annotations",
    "parse_json": "nri_sync.kit.fields.annotations",
    "parse_list": "nri_sync.kit.fields.annotations",
    "parse_yaml": "nri_sync.kit.fields.annotations",
    "pod_cgroup": "nri_sync.kit.fields.cgroups",
    "pod_qos": "nri_sync.kit.fields.qos",
    "pod_uid_of_cgroup": "nri_sync.kit.fields.cgroups",
    "process_cgroup": "nri_sync.kit.fields.cgroups",
    "qos_of_resources": "nri_sync.kit.fields.qos",
    "quota_to_milli": "nri_sync.kit.fields.cpu",
    "require_allowed": "nri_sync.kit.fields.devices",
    "run": "nri_sync.kit.program.program",
    "runtime_of_request": "nri_sync.kit.fields.runtimes",
    "set_env": "nri_sync.kit.fields.env",
    "setup_logging": "nri_sync.kit.logs.logs",
    "shares_to_milli": "nri_sync.kit.fields.cpu",
    "shares_to_weight": "nri_sync.kit.fields.cpu",
    "weight_to_shares": "nri_sync.kit.fields.cpu",
}

if not TYPE_CHECKING:

    def __getattr__(name):
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *__all__})
