"""What nearly every plugin needs around its stub.

Each piece stands on the public API alone, and works without the others. Names are imported when they are
first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nri_sync.kit.annotations import (
        Annotation,
        Annotations,
        list_of,
        one_of,
        parse_bool,
        parse_int,
        parse_json,
        parse_list,
        parse_yaml,
    )
    from nri_sync.kit.background import Background, BackgroundCounters, Task
    from nri_sync.kit.cgroups import (
        CgroupRoot,
        cgroup_name,
        cgroup_path,
        container_cgroup,
        expand_slice,
        pod_cgroup,
        pod_uid_of_cgroup,
        process_cgroup,
    )
    from nri_sync.kit.chains import chain
    from nri_sync.kit.config import Bytes, Cpus, Duration, load
    from nri_sync.kit.cpu import (
        format_cpus,
        milli_to_quota,
        milli_to_shares,
        parse_cpus,
        quota_to_milli,
        shares_to_milli,
        shares_to_weight,
        weight_to_shares,
    )
    from nri_sync.kit.durations import parse_duration
    from nri_sync.kit.formatters import JSONFormatter, TextFormatter
    from nri_sync.kit.health import Health, HealthReport, HealthState
    from nri_sync.kit.healthfile import HealthFile
    from nri_sync.kit.images import ContainerImage, ImageReference, container_image
    from nri_sync.kit.intercept import RequestInterceptor
    from nri_sync.kit.inventory import Inventory
    from nri_sync.kit.inventory_index import Changes, Snapshot
    from nri_sync.kit.inventory_records import ContainerRecord, PodRecord
    from nri_sync.kit.live_config import LiveConfig
    from nri_sync.kit.logcontext import (
        ContextFilter,
        LogContext,
        in_context,
        log_context,
        log_scope,
    )
    from nri_sync.kit.logs import LogRequests, setup_logging
    from nri_sync.kit.metrics import Metric, RequestMetrics, Sample
    from nri_sync.kit.names import container_name
    from nri_sync.kit.netns import network_namespace
    from nri_sync.kit.options import Options, add_options
    from nri_sync.kit.program import ExitCode, main, run
    from nri_sync.kit.qos import (
        QoS,
        container_qos,
        estimate_memory_request,
        kubelet_cgroup_parent,
        memory_high,
        oom_score_adj,
        pod_qos,
        qos_of_resources,
    )
    from nri_sync.kit.quantity import Quantity, QuantityFormat
    from nri_sync.kit.selectors import LabelSelector, Requirement, Selector
    from nri_sync.kit.server import HealthServer
    from nri_sync.kit.store import InventoryStore
    from nri_sync.kit.supervisor import Supervisor
    from nri_sync.kit.systemd import Notifier
    from nri_sync.kit.updates import PendingUpdate, UpdateCounters, UpdateQueue

__all__ = [
    "Annotation",
    "Annotations",
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
    "LogRequests",
    "Metric",
    "Notifier",
    "Options",
    "PendingUpdate",
    "PodRecord",
    "QoS",
    "Quantity",
    "QuantityFormat",
    "RequestInterceptor",
    "RequestMetrics",
    "Requirement",
    "Sample",
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
    "container_image",
    "container_name",
    "container_qos",
    "estimate_memory_request",
    "expand_slice",
    "format_cpus",
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
    "run",
    "setup_logging",
    "shares_to_milli",
    "shares_to_weight",
    "weight_to_shares",
]

# Where the names above come from. None may be that of a module here: importing that would put it in its place.
_HOMES = {
    "Annotation": "nri_sync.kit.annotations",
    "Annotations": "nri_sync.kit.annotations",
    "Background": "nri_sync.kit.background",
    "BackgroundCounters": "nri_sync.kit.background",
    "Bytes": "nri_sync.kit.config",
    "CgroupRoot": "nri_sync.kit.cgroups",
    "Changes": "nri_sync.kit.inventory_index",
    "ContainerImage": "nri_sync.kit.images",
    "ContainerRecord": "nri_sync.kit.inventory_records",
    "ContextFilter": "nri_sync.kit.logcontext",
    "Cpus": "nri_sync.kit.config",
    "Duration": "nri_sync.kit.config",
    "ExitCode": "nri_sync.kit.program",
    "Health": "nri_sync.kit.health",
    "HealthFile": "nri_sync.kit.healthfile",
    "HealthReport": "nri_sync.kit.health",
    "HealthServer": "nri_sync.kit.server",
    "HealthState": "nri_sync.kit.health",
    "ImageReference": "nri_sync.kit.images",
    "Inventory": "nri_sync.kit.inventory",
    "InventoryStore": "nri_sync.kit.store",
    "JSONFormatter": "nri_sync.kit.formatters",
    "LabelSelector": "nri_sync.kit.selectors",
    "LiveConfig": "nri_sync.kit.live_config",
    "LogContext": "nri_sync.kit.logcontext",
    "LogRequests": "nri_sync.kit.logs",
    "Metric": "nri_sync.kit.metrics",
    "Notifier": "nri_sync.kit.systemd",
    "Options": "nri_sync.kit.options",
    "PendingUpdate": "nri_sync.kit.updates",
    "PodRecord": "nri_sync.kit.inventory_records",
    "QoS": "nri_sync.kit.qos",
    "Quantity": "nri_sync.kit.quantity",
    "QuantityFormat": "nri_sync.kit.quantity",
    "RequestInterceptor": "nri_sync.kit.intercept",
    "RequestMetrics": "nri_sync.kit.metrics",
    "Requirement": "nri_sync.kit.selectors",
    "Sample": "nri_sync.kit.metrics",
    "Selector": "nri_sync.kit.selectors",
    "Snapshot": "nri_sync.kit.inventory_index",
    "Supervisor": "nri_sync.kit.supervisor",
    "Task": "nri_sync.kit.background",
    "TextFormatter": "nri_sync.kit.formatters",
    "UpdateCounters": "nri_sync.kit.updates",
    "UpdateQueue": "nri_sync.kit.updates",
    "add_options": "nri_sync.kit.options",
    "cgroup_name": "nri_sync.kit.cgroups",
    "cgroup_path": "nri_sync.kit.cgroups",
    "chain": "nri_sync.kit.chains",
    "container_cgroup": "nri_sync.kit.cgroups",
    "container_image": "nri_sync.kit.images",
    "container_name": "nri_sync.kit.names",
    "container_qos": "nri_sync.kit.qos",
    "estimate_memory_request": "nri_sync.kit.qos",
    "expand_slice": "nri_sync.kit.cgroups",
    "format_cpus": "nri_sync.kit.cpu",
    "in_context": "nri_sync.kit.logcontext",
    "kubelet_cgroup_parent": "nri_sync.kit.qos",
    "list_of": "nri_sync.kit.annotations",
    "load": "nri_sync.kit.config",
    "log_context": "nri_sync.kit.logcontext",
    "log_scope": "nri_sync.kit.logcontext",
    "main": "nri_sync.kit.program",
    "memory_high": "nri_sync.kit.qos",
    "milli_to_quota": "nri_sync.kit.cpu",
    "milli_to_shares": "nri_sync.kit.cpu",
    "network_namespace": "nri_sync.kit.netns",
    "one_of": "nri_sync.kit.annotations",
    "oom_score_adj": "nri_sync.kit.qos",
    "parse_bool": "nri_sync.kit.annotations",
    "parse_cpus": "nri_sync.kit.cpu",
    "parse_duration": "nri_sync.kit.durations",
    "parse_int": "nri_sync.kit.annotations",
    "parse_json": "nri_sync.kit.annotations",
    "parse_list": "nri_sync.kit.annotations",
    "parse_yaml": "nri_sync.kit.annotations",
    "pod_cgroup": "nri_sync.kit.cgroups",
    "pod_qos": "nri_sync.kit.qos",
    "pod_uid_of_cgroup": "nri_sync.kit.cgroups",
    "process_cgroup": "nri_sync.kit.cgroups",
    "qos_of_resources": "nri_sync.kit.qos",
    "quota_to_milli": "nri_sync.kit.cpu",
    "run": "nri_sync.kit.program",
    "setup_logging": "nri_sync.kit.logs",
    "shares_to_milli": "nri_sync.kit.cpu",
    "shares_to_weight": "nri_sync.kit.cpu",
    "weight_to_shares": "nri_sync.kit.cpu",
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
