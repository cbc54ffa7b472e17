"""Every adjustment of a new container has its effect inside the container."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from nri_sync import api
from tests.e2e import machine
from tests.e2e.build import Tools
from tests.e2e.conftest import Connect, RunWith
from tests.e2e.cri import Cri, Pod
from tests.e2e.inside import CGROUP2, Inside
from tests.e2e.node import BLOCKIO_CLASS, BLOCKIO_LIMIT, Node
from tests.interop.plugins import Recorder

__all__: list[str] = []

MIB = 1 << 20
HAS_RESCTRL = Path("/sys/fs/resctrl/schemata").exists()
HAS_HUGETLB = CGROUP2 or bool(list(Path("/sys/fs/cgroup").glob("hugetlb*")))
RDT = "yes" if HAS_RESCTRL else "passed on to runc, where it needs resctrl"
HUGE_PAGES = "yes" if HAS_HUGETLB else "passed on to runc, where it needs the hugetlb cgroup"

feature = pytest.mark.feature


@feature("Environment: add, replace, remove")
def test_environment(run_with: RunWith) -> None:
    adjustment = api.Adjustment().add_env("NEW", "1").remove_env("OLD").add_env("OLD", "changed")
    inside = run_with(adjustment, env={"OLD": "x", "KEPT": "y"})
    wanted = {"NEW": "1", "OLD": "changed", "KEPT": "y", "FROM_IMAGE": "yes"}
    assert {key: inside.env.get(key) for key in wanted} == wanted


@feature("Arguments")
def test_arguments(run_with: RunWith) -> None:
    inside = run_with(api.Adjustment().set_args(["/probe", "changed"]), args=["given"])
    assert inside.args == ["/probe", "changed"]


@feature("Mounts: add, remove")
def test_mounts(run_with: RunWith, scratch: Path) -> None:
    (scratch / "file").write_text("of the host")
    adjustment = api.Adjustment().remove_mount("/dev/mqueue")
    adjustment.add_mount("/injected", source=str(scratch), type="bind", options=["bind", "ro"])
    inside = run_with(adjustment)
    assert inside.path("/injected/file").read_text() == "of the host"
    assert "ro" in inside.mounts["/injected"]
    assert "/dev/mqueue" not in inside.mounts


@feature("Devices, with access to them")
def test_devices(pod: Pod, connect: Connect) -> None:
    adjustment = api.Adjustment().add_device(
        "/dev/injected", "c", 1, 5, file_mode=0o640, uid=7, gid=8
    )
    connect(Recorder(create_container=adjustment))
    container = pod.run()
    status = Inside(container).path("/dev/injected").stat()
    assert stat.S_ISCHR(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o640
    assert (status.st_rdev, status.st_uid, status.st_gid) == (os.makedev(1, 5), 7, 8)
    # A copy of /dev/zero under another name.
    read = container.execute("cat", "/dev/injected")
    assert (read.exit_code, read.stdout) == (0, bytes(4096))


@feature("CDI devices")
def test_cdi_devices(run_with: RunWith, node: Node) -> None:
    edits = {"env": ["FROM_CDI=yes"], "deviceNodes": [{"path": "/dev/null"}]}
    specification = {
        "cdiVersion": "0.6.0",
        "kind": "nri-sync.test/device",
        "devices": [{"name": "one", "containerEdits": edits}],
    }
    (node.cdi_path / "e2e.json").write_text(json.dumps(specification))
    inside = run_with(api.Adjustment().add_cdi_device("nri-sync.test/device=one"))
    assert inside.env["FROM_CDI"] == "yes"


@feature("Annotations")
def test_annotations(pod: Pod, connect: Connect) -> None:
    connect(Recorder(create_container=api.Adjustment().add_annotation("example.com/a", "b")))
    assert pod.run().info["runtimeSpec"]["annotations"]["example.com/a"] == "b"


@feature("OCI hooks of all six stages")
def test_hooks(pod: Pod, connect: Connect, tools: Tools, scratch: Path) -> None:
    scratch.chmod(0o777)
    adjustment = api.Adjustment()
    adjustment.add_mount(str(scratch), source=str(scratch), type="bind", options=["bind", "rw"])
    stages: list[api.HookStage] = [
        "prestart", "create_runtime", "create_container", "start_container", "poststart", "poststop",
    ]  # fmt: skip
    for stage in stages:
        # This path is looked up in the container.
        path = "/probe" if stage == "start_container" else str(tools.probe)
        adjustment.add_hook(stage, path, args=["probe", "touch", str(scratch / stage)], timeout=10)
    connect(Recorder(create_container=adjustment))
    container = pod.run()
    Inside(container)
    assert sorted(path.name for path in scratch.iterdir()) == sorted(stages[:-1])
    container.stop()
    container.remove()
    assert (scratch / "poststop").exists()


@feature("POSIX rlimits")
def test_rlimits(run_with: RunWith) -> None:
    # A limit that Go programs do not raise by themselves, as they do for open files.
    inside = run_with(api.Adjustment().add_rlimit("RLIMIT_CORE", soft=123, hard=456))
    assert inside.limits("Max core file size") == ["123", "456"]


@feature("OOM score")
def test_oom_score(run_with: RunWith) -> None:
    assert run_with(api.Adjustment().set_oom_score_adj(777)).oom_score_adj == 777


@feature("cgroup: memory limit")
def test_memory(run_with: RunWith) -> None:
    adjustment = api.Adjustment().set_memory(limit=64 * MIB)
    inside = run_with(adjustment, resources={"memory_limit_in_bytes": 128 * MIB})
    assert inside.memory_limit == 64 * MIB


@feature("cgroup: memory reservation, swap, swappiness", proves="ignored by the runtime")
def test_other_memory_settings(pod: Pod, connect: Connect) -> None:
    adjustment = api.Adjustment().set_memory(
        limit=64 * MIB, reservation=32 * MIB, swap=128 * MIB, swappiness=7
    )
    connect(Recorder(create_container=adjustment))
    memory = pod.run().info["runtimeSpec"]["linux"]["resources"]["memory"]
    assert memory == {"limit": 64 * MIB, "swap": 64 * MIB}


@feature("cgroup: CPU shares, quota, cpuset")
def test_cpu(run_with: RunWith) -> None:
    adjustment = api.Adjustment().set_cpu(shares=333, quota=50_000, period=100_000, cpus="0")
    inside = run_with(adjustment.set_cpu(mems="0"))
    assert inside.cpu_shares in (333, None)
    assert inside.cpu_quota == (50_000, 100_000)
    assert inside.cpus == "0"
    assert inside.status("Cpus_allowed_list") == "0"
    assert inside.memory_nodes == "0"


@feature("cgroup: pids")
def test_pids(run_with: RunWith) -> None:
    assert run_with(api.Adjustment().set_pids_limit(99)).pids_limit == 99


@feature("cgroup: path")
def test_cgroups_path(run_with: RunWith, node: Node) -> None:
    path = f"{node.cgroup}/chosen"
    directory = run_with(api.Adjustment().set_cgroups_path(path)).cgroup_directory("memory")
    assert str(directory).endswith(path)


@feature("cgroup v2: unified")
@pytest.mark.skipif(not CGROUP2, reason="needs cgroup v2")
def test_unified(run_with: RunWith) -> None:
    inside = run_with(api.Adjustment().set_unified("memory.high", str(32 * MIB)))
    assert (inside.cgroup_directory("memory") / "memory.high").read_text() == f"{32 * MIB}\n"


@feature("Namespaces: new, the host's")
def test_namespaces(pod: Pod, run_with: RunWith) -> None:
    inside = run_with(api.Adjustment().set_namespace("ipc").remove_namespace("uts"))
    assert inside.namespace("ipc") not in (
        os.readlink(f"/proc/{pod.pid}/ns/ipc"),
        os.readlink("/proc/self/ns/ipc"),
    )
    assert inside.namespace("uts") == os.readlink("/proc/self/ns/uts")


@feature("Namespaces: of another process")
def test_joined_namespace(cri: Cri, run_with: RunWith) -> None:
    # A pod with a network namespace, which a container of another pod has to join.
    pid = cri.run_pod(own_network=True).pid
    inside = run_with(api.Adjustment().set_namespace("network", f"/proc/{pid}/ns/net"))
    assert inside.namespace("net") == os.readlink(f"/proc/{pid}/ns/net")


@feature("sysctl")
def test_sysctl(pod: Pod, connect: Connect) -> None:
    connect(Recorder(create_container=api.Adjustment().set_sysctl("kernel.shm_rmid_forced", "1")))
    value = pod.run().execute("cat", "/proc/sys/kernel/shm_rmid_forced")
    assert value.stdout == b"1\n"


@feature("seccomp filter")
def test_seccomp(pod: Pod, connect: Connect) -> None:
    policy = api.LinuxSeccomp(default_action="SCMP_ACT_ALLOW")
    policy.syscalls.add(names=["mkdir", "mkdirat"], action="SCMP_ACT_ERRNO")
    connect(Recorder(create_container=api.Adjustment().set_seccomp_policy(policy)))
    container = pod.run()
    assert Inside(container).status("Seccomp") == "2"
    refused = container.execute("mkdir", "/tmp/x")
    assert (refused.exit_code, refused.stderr) == (1, b"mkdir /tmp/x: operation not permitted\n")
    assert container.execute("touch", "/tmp/y").exit_code == 0


@feature("I/O priority")
def test_io_priority(run_with: RunWith) -> None:
    inside = run_with(api.Adjustment().set_io_priority("IOPRIO_CLASS_BE", 6))
    assert inside.io_priority == (2, 6)


@feature("Scheduler")
def test_scheduler(run_with: RunWith) -> None:
    inside = run_with(api.Adjustment().set_scheduler("SCHED_BATCH", nice=5))
    assert os.sched_getscheduler(inside.pid) == os.SCHED_BATCH
    assert os.getpriority(os.PRIO_PROCESS, inside.pid) == 5


@feature("Memory policy")
@pytest.mark.skipif(not Path("/proc/self/numa_maps").exists(), reason="needs a kernel with NUMA")
def test_memory_policy(run_with: RunWith) -> None:
    inside = run_with(api.Adjustment().set_memory_policy("MPOL_BIND", "0"))
    policies = {line.split()[1] for line in (inside.proc / "numa_maps").read_text().splitlines()}
    assert "bind:0" in policies


@pytest.fixture
def interface(node: Node) -> Iterator[str]:
    """An unused network interface of the host; one end of a virtual cable."""
    name, peer = (machine.interface(node.root, end) for end in "ab")
    command = ["ip", "link", "add", name, "type", "veth", "peer", "name", peer]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "Unknown device type" in done.stderr:
        pytest.skip("needs a kernel with virtual network interfaces")
    assert done.returncode == 0, done.stderr
    yield name
    # This removes the other end, too, in any namespace.
    subprocess.run(["ip", "link", "del", peer], check=True)


@feature("Network devices")
def test_network_device(cri: Cri, connect: Connect, interface: str) -> None:
    pod = cri.run_pod(own_network=True)
    connect(Recorder(create_container=api.Adjustment().add_net_device(interface, "given0")))
    inside = Inside(pod.run())
    assert "given0:" in (inside.proc / "net" / "dev").read_text()
    assert f"{interface}:" not in Path("/proc/net/dev").read_text()


@feature("Class of block I/O")
@pytest.mark.skipif(machine.block_device() is None, reason="needs a block device")
def test_blockio_class(run_with: RunWith) -> None:
    inside = run_with(api.Adjustment().set_blockio_class(BLOCKIO_CLASS))
    device = machine.block_device()
    assert device is not None
    assert inside.read_limit(device) == BLOCKIO_LIMIT


@feature("Class of block I/O: an unknown one fails the creation")
def test_unknown_blockio_class(pod: Pod, connect: Connect) -> None:
    connect(Recorder(create_container=api.Adjustment().set_blockio_class("unheard-of")))
    with pytest.raises(grpc.RpcError, match='no OCI BlockIO parameters for class "unheard-of"'):
        pod.create()


def check_rdt(pod: Pod, connect: Connect, adjustment: api.Adjustment) -> None:
    connect(Recorder(create_container=adjustment))
    if HAS_RESCTRL:
        pid = Inside(pod.run()).pid
        (group,) = Path("/sys/fs/resctrl").glob("*nri-e2e")
        assert str(pid) in (group / "tasks").read_text().split()
    else:
        with pytest.raises(grpc.RpcError, match="Intel RDT is not enabled"):
            pod.run()


@feature("Resource Director Technology: class", proves=RDT)
def test_rdt_class(pod: Pod, connect: Connect) -> None:
    check_rdt(pod, connect, api.Adjustment().set_rdt_class("nri-e2e"))


@feature("Resource Director Technology: class of service, schemata", proves=RDT)
def test_rdt(pod: Pod, connect: Connect) -> None:
    check_rdt(pod, connect, api.Adjustment().set_rdt(clos_id="nri-e2e", schemata=["MB:0=100"]))


@feature("Huge pages", proves=HUGE_PAGES)
def test_huge_pages(pod: Pod, connect: Connect) -> None:
    connect(Recorder(create_container=api.Adjustment().add_hugepage_limit("2MB", 4 * MIB)))
    if HAS_HUGETLB:
        name = "hugetlb.2MB.max" if CGROUP2 else "hugetlb.2MB.limit_in_bytes"
        directory = Inside(pod.run()).cgroup_directory("hugetlb")
        assert int((directory / name).read_text()) == 4 * MIB
    else:
        with pytest.raises(grpc.RpcError, match="cannot set hugetlb limit"):
            pod.run()


@feature("An error of a handler fails the creation")
def test_error(pod: Pod, connect: Connect) -> None:
    connect(Recorder(create_container=ValueError("no such luck")))
    with pytest.raises(Exception, match="no such luck"):
        pod.create()


@feature("All of it at once")
def test_together(run_with: RunWith) -> None:
    adjustment = api.Adjustment().add_env("A", "1").set_memory(limit=64 * MIB).set_pids_limit(50)
    adjustment.add_device("/dev/injected", "c", 1, 3).set_oom_score_adj(500)
    inside = run_with(adjustment)
    assert inside.env["A"] == "1"
    assert inside.path("/dev/injected").exists()
    assert (inside.memory_limit, inside.pids_limit) == (64 * MIB, 50)
    assert inside.oom_score_adj == 500
