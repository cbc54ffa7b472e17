"""Realistic pods, and the messages that plugins on a real node receive about them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from nri_sync import api, kit
from nri_sync.testing.manifests import ImageConfig, Kind, ManifestError, Workload, ids, load
from tests.testing.manifests import PODS, container, mounts, only, pod_file, spec_of

__all__: list[str] = []

GIB, MIB = 1 << 30, 1 << 20
LOG = "/dev/termination-log"
TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"


def env(workload: Workload, name: str = "") -> dict[str, str]:
    entries = container(workload, name).container.env
    return dict(entry.split("=", 1) for entry in entries)


def cpu(workload: Workload, name: str = "") -> dict[str, int]:
    found: dict[str, int] = spec_of(workload, name)["linux"]["resources"]["cpu"]
    return found


def memory(workload: Workload, name: str = "") -> dict[str, int]:
    found: dict[str, int] = spec_of(workload, name)["linux"]["resources"]["memory"]
    return found


def score(workload: Workload, name: str = "") -> int:
    return container(workload, name).container.linux.oom_score_adj.value


def pod_of(spec: Any, **metadata: Any) -> Workload:
    spec = {"containers": [{"name": "app", "image": "busybox"}], **spec}
    manifest = {"kind": "Pod", "metadata": {"name": "pod", **metadata}, "spec": spec}
    return only(load(json.dumps(manifest)))


@pytest.mark.parametrize("path", sorted(PODS.iterdir()), ids=lambda path: path.name)
class TestAll:
    def test_the_result_is_the_same_each_time(self, path: Any) -> None:
        first, again = load(path), load(path)
        assert [w.pod for w in first] == [w.pod for w in again]
        assert [[c.spec for c in w.containers] for w in first] == [
            [c.spec for c in w.containers] for w in again
        ]

    def test_the_kit_reads_name_cgroup_and_image_from_the_messages(self, path: Any) -> None:
        for workload in load(path):
            qos = kit.pod_qos(workload.pod)
            assert qos is not None
            assert kit.pod_uid_of_cgroup(kit.pod_cgroup(workload.pod) or "") == workload.pod.uid
            for item in workload.containers:
                found = item.container
                assert kit.container_name(found) == item.name == found.name
                assert kit.container_cgroup(found, workload.pod)
                assert kit.container_image(found).reference
                assert found.pod_sandbox_id == workload.pod.id
                assert found.labels["io.kubernetes.pod.uid"] == workload.pod.uid
                # The annotations of a pod are not copied to its containers.
                assert "kubernetes.io/config.source" not in found.annotations
                assert len({mount.destination for mount in found.mounts}) == len(found.mounts)


def test_best_effort() -> None:
    workload = pod_file("best-effort.yaml", systemd_cgroups=False)
    pod, found = workload.pod, container(workload).container
    assert (pod.name, pod.namespace) == ("nginx", "default")
    assert re.fullmatch("[0-9a-f]{64}", pod.id)
    assert pod.linux.cgroup_parent == f"/kubepods/besteffort/pod{pod.uid}"
    assert pod.labels["app"] == "nginx"
    assert pod.labels["io.kubernetes.pod.name"] == "nginx"
    assert pod.annotations["kubernetes.io/config.source"] == "api"
    assert "kubernetes.io/config.hash" not in pod.annotations
    assert cpu(workload) == {"shares": 2, "period": 100_000}
    assert memory(workload) == {}
    assert score(workload) == 1000
    assert found.linux.cgroups_path == f"{pod.linux.cgroup_parent}/{found.id}"
    assert found.labels["io.kubernetes.container.name"] == "nginx"
    annotations = dict(found.annotations)
    assert annotations["io.kubernetes.container.restartCount"] == "0"
    assert annotations["io.kubernetes.container.terminationMessagePath"] == LOG
    assert annotations["io.kubernetes.container.terminationMessagePolicy"] == "File"
    assert annotations["io.kubernetes.pod.terminationGracePeriod"] == "30"
    assert annotations["io.kubernetes.container.ports"] == '[{"containerPort":80,"protocol":"TCP"}]'
    assert annotations["io.kubernetes.cri.image-name"] == "nginx:1.27"
    assert found.image.name == "docker.io/library/nginx:1.27"
    kubelet = f"/var/lib/kubelet/pods/{pod.uid}"
    mounted = mounts(workload)
    assert mounted["/etc/hosts"] == (f"{kubelet}/etc-hosts", ["rbind", "rprivate", "rw"])
    assert mounted[LOG][0].startswith(f"{kubelet}/containers/nginx/")
    token, options = mounted[TOKEN]
    assert re.fullmatch(
        rf"{kubelet}/volumes/kubernetes.io~projected/kube-api-access-\w{{5}}", token
    )
    assert options == ["rbind", "rprivate", "ro"]
    assert env(workload)["HOSTNAME"] == "nginx"
    assert env(workload)["KUBERNETES_SERVICE_HOST"] == "10.96.0.1"
    assert list(found.args) == ["<the entrypoint of nginx:1.27>"]
    assert [note for note in workload.notes if "its command (a placeholder" in note]


def test_guaranteed() -> None:
    workload = pod_file("guaranteed.yaml")
    pod = workload.pod
    slice = f"kubepods-pod{pod.uid.replace('-', '_')}.slice"
    assert pod.linux.cgroup_parent == f"/kubepods.slice/{slice}"
    found = container(workload).container
    assert found.linux.cgroups_path == f"{slice}:cri-containerd:{found.id}"
    assert cpu(workload) == {"shares": 2048, "quota": 200_000, "period": 100_000}
    assert memory(workload) == {"limit": 4 * GIB, "swap": 4 * GIB}
    assert score(workload) == -997
    assert pod.linux.pod_resources.memory.limit.value == 4 * GIB
    assert pod.annotations["prometheus.io/scrape"] == "true"
    assert found.annotations["io.kubernetes.pod.terminationGracePeriod"] == "120"
    pre_stop = json.loads(found.annotations["io.kubernetes.container.preStopHandler"])
    assert pre_stop == {"exec": {"command": ["pg_ctl", "stop", "-m", "fast"]}}
    assert "/kubernetes.io~csi/pvc-" in mounts(workload)["/var/lib/postgresql/data"][0]
    assert TOKEN not in mounts(workload)
    assert list(found.args)[1:] == ["-c", "shared_buffers=1GB"]


def test_burstable() -> None:
    workload = pod_file("burstable.yaml")
    assert kit.pod_qos(workload.pod) is kit.QoS.BURSTABLE
    assert cpu(workload, "app") == {"shares": 256, "period": 100_000}
    # 512 MiB and 1 GiB of 16 GiB.
    assert (score(workload, "app"), score(workload, "cache")) == (969, 938)
    assert cpu(workload, "cache") == {"shares": 102, "quota": 50_000, "period": 100_000}
    assert memory(workload, "cache")["limit"] == 2 * GIB
    told = workload.pod.linux.pod_resources
    assert (told.cpu.shares.value, told.cpu.quota.value) == (358, 50_000)
    # The update is for the only container with a limit.
    assert told.memory.limit.value == 2 * GIB
    assert list(container(workload, "app").container.args) == [
        "/bin/web", "--listen=:8080", "--name=$(MISSING)", "$(PORT)",
    ]  # fmt: skip
    assert env(workload, "app")["URL"] == "http://10.96.0.1:8080/"


def test_init_and_sidecar() -> None:
    workload = pod_file("init-and-sidecar.yaml")
    assert [(item.name, item.kind) for item in workload.containers] == [
        ("migrate", Kind.INIT),
        ("logs", Kind.SIDECAR),
        ("warm-up", Kind.INIT),
        ("app", Kind.ORDINARY),
    ]
    assert [score(workload, name) for name in ("migrate", "logs", "warm-up", "app")] == [
        985, 993, 997, 993,
    ]  # fmt: skip
    # The first init container needs most, and runs alone.
    assert workload.pod.linux.pod_resources.cpu.shares.value == 1024
    shared = {mounts(workload, name)["/opt"][0] for name in ("migrate", "logs", "app")}
    assert shared == {
        f"/var/lib/kubelet/pods/{workload.pod.uid}/volumes/kubernetes.io~empty-dir/data"
    }


def test_volumes() -> None:
    workload = pod_file("volumes.yaml")
    kubelet = f"/var/lib/kubelet/pods/{workload.pod.uid}"
    volumes, bound = f"{kubelet}/volumes/kubernetes.io~", f"{kubelet}/volume-subpaths"
    mounted = mounts(workload)
    assert mounted["/var/log"] == ("/var/log", ["rbind", "rslave", "ro"])
    assert mounted["/projected"] == (f"{volumes}projected/all", ["rbind", "rprivate", "ro"])
    assert mounted["/fluent-bit/etc/fluent-bit.conf"][0] == f"{bound}/config/collector/2"
    assert mounted["/var/fluent-bit/state"] == (
        f"{bound}/state/collector/3",
        ["rbind", "rprivate", "rw"],
    )
    assert mounted["/dev/shm"][0] == f"{volumes}empty-dir/memory"
    assert mounted["/pki"] == (f"{volumes}secret/pki", ["rbind", "rprivate", "ro"])
    assert mounted["/inline"] == (f"{volumes}csi/inline/mount", ["rbind", "rprivate", "ro"])
    assert mounted["/etc/hosts"] == ("/etc/hosts.pods", ["rbind", "rprivate", "ro"])
    assert TOKEN in mounted
    assert spec_of(workload)["linux"]["rootfsPropagation"] == "rslave"
    places = [mount["destination"] for mount in spec_of(workload)["mounts"]]
    depths = [place.count("/") for place in places[places.index("/projected") :]]
    assert depths == sorted(depths)


def test_gpu() -> None:
    workload = pod_file("gpu.yaml", memory=64 * GIB)
    pod = workload.pod
    assert pod.runtime_handler == "nvidia"
    assert "cdi-devices.noderesource.dev/container.train" in pod.annotations
    assert "/dev/nri-null" in pod.annotations["devices.noderesource.dev/container.train"]
    assert cpu(workload) == {"shares": 4096, "quota": 800_000, "period": 100_000}
    assert score(workload) == 500
    assert any("nvidia.com/gpu are unknown" in note for note in workload.notes)
    assert not container(workload).container.CDI_devices


def test_huge_pages() -> None:
    workload = pod_file("huge-pages.yaml", disable_hugetlb_controller=False)
    limits = {"2MB": 100 * MIB, "1GB": 2 * GIB}
    found = container(workload).container.linux.resources
    assert {item.page_size: item.limit for item in found.hugepage_limits} == limits
    none = container(
        pod_file("best-effort.yaml", disable_hugetlb_controller=False)
    ).container.linux.resources
    assert {item.page_size: item.limit for item in none.hugepage_limits} == {"2MB": 0, "1GB": 0}


def test_containerd_s_default_leaves_huge_pages_out() -> None:
    found = container(pod_file("huge-pages.yaml")).container.linux.resources
    assert not found.hugepage_limits


def test_security_context() -> None:
    workload = pod_file("security-context.yaml")
    restricted, tuned = spec_of(workload, "restricted"), spec_of(workload, "tuned")
    process = restricted["process"]
    assert process["user"] == {"uid": 1000, "gid": 3000, "additionalGids": [2000, 3000, 4000]}
    assert process["capabilities"]["bounding"] == ["CAP_NET_BIND_SERVICE"]
    assert process["noNewPrivileges"]
    assert process["terminal"]
    assert process["cwd"] == "/data"
    assert restricted["root"]["readonly"]
    assert "/proc/kcore" in restricted["linux"]["maskedPaths"]
    assert tuned["process"]["user"]["uid"] == 2001
    assert tuned["linux"]["maskedPaths"] == tuned["linux"]["readonlyPaths"] == []
    capabilities = tuned["process"]["capabilities"]["effective"]
    assert "CAP_SYS_PTRACE" in capabilities
    assert "CAP_NET_RAW" not in capabilities
    profiles = [item.container.linux.seccomp_profile for item in workload.containers]
    kinds = api.SecurityProfile
    assert [profile.profile_type for profile in profiles] == [
        kinds.RUNTIME_DEFAULT,
        kinds.LOCALHOST,
        kinds.UNCONFINED,
    ]
    assert profiles[1].localhost_ref == "/var/lib/kubelet/seccomp/profiles/audit.json"
    assert spec_of(workload, "any")["process"]["apparmorProfile"] == "k8s-deny-write"
    user = container(workload, "restricted").container.user
    assert (user.uid, user.gid, list(user.additional_gids)) == (1000, 3000, [2000, 3000, 4000])


def test_host_network() -> None:
    workload = pod_file("host-network.yaml", node_name="worker-1", node_ip="192.0.2.9")
    pod, found = workload.pod, container(workload).container
    assert re.fullmatch("node-exporter-[a-z0-9]{5}", pod.name)
    assert pod.namespace == "monitoring"
    assert pod.labels["controller-revision-hash"]
    assert pod.labels["pod-template-generation"] == "1"
    assert [item.type for item in pod.linux.namespaces] == ["mount"]
    assert not pod.ips
    assert kit.network_namespace(pod) is None
    assert env(workload)["HOSTNAME"] == "worker-1"
    assert list(found.args)[-1] == "--web.listen-address=192.0.2.9:9100"
    assert '"hostPort":9100' in found.annotations["io.kubernetes.container.ports"]
    assert "/etc/hosts" in mounts(workload)
    assert mounts(workload)["/dev/shm"][0] == "/dev/shm"
    assert score(workload) == -997  # the pod is critical, although it is Burstable
    assert kit.pod_qos(pod) is kit.QoS.BURSTABLE
    assert cpu(workload) == {"shares": 104, "quota": 25_000, "period": 100_000}


def test_pod_level_resources() -> None:
    workload = pod_file("pod-level-resources.yaml", disable_hugetlb_controller=False)
    assert kit.pod_qos(workload.pod) is kit.QoS.BURSTABLE
    told = workload.pod.linux.pod_resources
    assert (told.cpu.shares.value, told.cpu.quota.value) == (1024, 100_000)
    assert told.memory.limit.value == 2 * GIB
    assert cpu(workload, "limited") == {"shares": 512, "quota": 50_000, "period": 100_000}
    assert memory(workload, "limited")["limit"] == 512 * MIB
    # The container may use as much as the whole pod.
    assert cpu(workload, "free") == {"shares": 1024, "quota": 100_000, "period": 100_000}
    assert memory(workload, "free")["limit"] == 2 * GIB
    # Of 16 GiB: 256 MiB plus half of the remaining 768 MiB; and that half alone.
    assert (score(workload, "limited"), score(workload, "free")) == (961, 977)
    for item in workload.containers:
        assert item.container.linux.resources.hugepage_limits[0].limit == 64 * MIB


def test_downward_api() -> None:
    workload = pod_file("downward-api.yaml", node_name="worker-1", cpus=6)
    found = env(workload)
    wanted = {
        "POD_NAME": "info", "NAMESPACE": "shop", "NODE": "worker-1", "ACCOUNT": "reader",
        "IP": "10.88.0.2", "HOST": "192.0.2.10", "APP": "info", "BUILD": "42",
        "CPU_REQUEST": "1", "CPU_MILLI": "125", "CPU_LIMIT": "6", "MEMORY": "64", "EMPTY": "",
        "SECRET": "<password of Secret login>",
    }  # fmt: skip
    assert {name: found[name] for name in wanted} == wanted
    assert "MAYBE" not in found
    assert list(container(workload).container.args)[-1] == "echo info"


def test_shared_empty_dir() -> None:
    workload = pod_file("shared-empty-dir.yaml")
    html = mounts(workload, "nginx")["/usr/share/nginx/html"]
    data = mounts(workload, "debian")["/pod-data"]
    assert html[0] == data[0]
    assert data[1] == ["rbind", "rprivate", "rro"]
    assert container(workload, "nginx").container.image.name == "docker.io/library/nginx:latest"
    digest = container(workload, "debian").container.image.digest
    assert digest.startswith("sha256:1d3c8111")
    assert env(workload, "nginx")["HOSTNAME"] == "two"
    pid = container(workload, "nginx").container.linux.namespaces[0]
    assert (pid.type, pid.path) == ("pid", f"/proc/{workload.pod.pid}/ns/pid")


def test_deployment() -> None:
    workload = pod_file("deployment.yaml")
    assert re.fullmatch("shop-[a-z0-9]{10}-[a-z0-9]{5}", workload.pod.name)
    assert workload.pod.labels["pod-template-hash"] == workload.pod.name.split("-")[1]
    found = env(workload)
    assert found["COLOR"] == "dark green"
    assert found["LEVEL"] == "3"
    assert found["DB_PASSWORD"] == found["PASSWORD"] == "hunter2"
    assert found["DB_USER"] == "shop"
    assert any("ConfigMap elsewhere" in note for note in workload.notes)


def test_cron_job() -> None:
    workload = pod_file("cron-job.yaml")
    name = re.fullmatch("(backup-[0-9]+)-[a-z0-9]{5}", workload.pod.name)
    assert name
    assert workload.pod.labels["job-name"] == name[1]
    assert workload.pod.labels["job"] == "backup"
    assert cpu(workload) == {"shares": 10, "quota": 2000, "period": 100_000}
    assert memory(workload)["limit"] == 10**9


def test_stateful_set() -> None:
    workload = pod_file("stateful-set.yaml")
    assert workload.pod.name == "etcd-0"
    assert workload.pod.labels["statefulset.kubernetes.io/pod-name"] == "etcd-0"
    assert list(container(workload).container.args) == ["etcd", "--name", "etcd-0"]
    assert "/kubernetes.io~csi/pvc-" in mounts(workload)["/var/lib/etcd"][0]


def test_runtime_class() -> None:
    workload = pod_file("runtime-class.yaml")
    pod = workload.pod
    assert pod.runtime_handler == "kata-fc-handler"
    overhead = pod.linux.pod_overhead
    assert (overhead.cpu.shares.value, overhead.memory.limit.value) == (256, 120 * MIB)
    assert pod.linux.pod_resources.memory.limit.value == 100 * MIB
    assert spec_of(workload)["linux"]["uidMappings"][0]["containerID"] == 0
    assert "the user ids of its user namespace are made up" in workload.notes


def test_privileged() -> None:
    workload = pod_file("privileged.yaml")
    found = spec_of(workload)
    assert "CAP_SYS_ADMIN" in found["process"]["capabilities"]["bounding"]
    assert found["linux"]["rootfsPropagation"] == "rshared"
    assert mounts(workload)["/dev"] == ("/dev", ["rbind", "rprivate", "rw"])
    assert not {"/dev/pts", "/dev/mqueue"} & mounts(workload).keys()
    assert any("block devices are unknown" in note for note in workload.notes)


def test_a_pod_that_exists() -> None:
    workload = pod_file("live.json")
    pod, found = workload.pod, container(workload).container
    assert pod.uid == "0b0cbb73-4a9f-4a7e-9d0a-3a4a2f6d7a11"
    assert list(pod.ips) == ["10.244.1.7", "2001:db8::7"]
    assert found.id.startswith("5f0c7d5a1e0cbb73")
    token, _ = mounts(workload)[TOKEN]
    assert token.endswith("/kubernetes.io~projected/kube-api-access-t4h7w")
    # Critical for the cluster, but not for the node: 70 of 16384 MiB.
    assert score(workload) == 996


def test_cgroup_v1() -> None:
    workload = pod_file("burstable.yaml", cgroup_version=1)
    resources = spec_of(workload, "cache")["linux"]["resources"]
    assert "unified" not in resources
    assert resources["memory"] == {"limit": 2 * GIB, "swap": 2 * GIB}
    assert {"type": "cgroup"} not in spec_of(workload, "cache")["linux"]["namespaces"]
    v2 = spec_of(pod_file("burstable.yaml"), "cache")["linux"]["resources"]
    assert v2["unified"] == {"memory.oom.group": "1", "memory.swap.max": "0"}


def test_static_pods() -> None:
    workload = pod_file("best-effort.yaml", static_pods=True, node_name="Worker")
    pod = workload.pod
    assert pod.name == "nginx-worker"
    assert re.fullmatch("[0-9a-f]{32}", pod.uid)
    assert pod.annotations["kubernetes.io/config.hash"] == pod.uid
    assert pod.annotations["kubernetes.io/config.source"] == "file"
    assert TOKEN not in mounts(workload)
    assert "KUBERNETES_PORT" not in env(workload)


def test_the_configuration_of_images_can_be_given() -> None:
    image = ImageConfig(
        entrypoint=["/docker-entrypoint.sh"], cmd=["nginx"], env=["PATH=/x", "NGINX_VERSION=1.27"],
        user="101:102", working_dir="/www", volumes=["/cache"], labels={"maintainer": "m"},
    )  # fmt: skip
    workload = pod_file("best-effort.yaml", images={"nginx:1.27": image})
    found = container(workload).container
    assert list(found.args) == ["/docker-entrypoint.sh", "nginx"]
    assert env(workload)["PATH"] == "/x"
    assert env(workload)["NGINX_VERSION"] == "1.27"
    assert (found.user.uid, found.user.gid) == (101, 0)
    assert found.labels["maintainer"] == "m"
    assert spec_of(workload)["process"]["cwd"] == "/www"
    assert "/cache" in mounts(workload)
    assert found.HasField("hooks")
    assert [note for note in workload.notes if "the group of user 101" not in note] == []
    others = pod_file("best-effort.yaml", images={"*": image})
    assert container(others).container.args == found.args


@pytest.mark.parametrize(
    ("spec", "hostname"),
    [
        ({}, "pod"),
        ({"hostname": "db"}, "db"),
        ({"hostname": "db", "subdomain": "dbs"}, "db"),
        (
            {"hostname": "db", "subdomain": "dbs", "setHostnameAsFQDN": True},
            "db.dbs.default.svc.cluster.local",
        ),
        ({"hostnameOverride": "other.example"}, "other.example"),
    ],
)
def test_hostnames(spec: Any, hostname: str) -> None:
    assert env(pod_of(spec))["HOSTNAME"] == hostname


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({"containers": []}, "spec.containers: has no containers: a pod needs at least one"),
        ({"containers": [{"image": "x"}]}, "spec.containers[0].name: is missing: name the container"),
        ({"containers": [{"name": "app"}]}, "spec.containers[0].image: is missing: name the image"),
        ({"containers": [{"name": "a", "image": "A B"}]}, "spec.containers[0].image: 'A B' is not an image"),
        (
            {"initContainers": [{"name": "app", "image": "x"}]},
            "spec.containers[0].name: 'app' is the name of another container, too",
        ),
        ({"containers": {"name": "a"}}, "spec.containers: must be a list, not an object"),
        ({"os": {"name": "windows"}}, "spec.os.name: is not linux"),
        (
            {"containers": [{"name": "a", "image": "x", "resources": {"limits": {"cpu": "a lot"}}}]},
            "spec.containers[0].resources.limits.cpu: 'a lot' is not a quantity",
        ),
    ],
)  # fmt: skip
def test_an_invalid_pod_is_refused(spec: Any, problem: str) -> None:
    with pytest.raises(ManifestError) as raised:
        pod_of(spec)
    assert str(raised.value).startswith(f"<text>: {problem}")
    assert "\n" not in str(raised.value)


LIVE = {
    "containers": [{"name": "app", "image": "busybox", "resources": {"limits": {"cpu": 1, "memory": "1Gi"}}}],
    "ephemeralContainers": [
        {"name": "debug", "image": "busybox", "targetContainerName": "app"},
        {"name": "plain", "image": "busybox"},
    ],
}  # fmt: skip


def ephemeral(**spec: Any) -> Workload:
    pod = {
        "kind": "Pod",
        "metadata": {"name": "web"},
        "spec": {**LIVE, **spec},
        "status": {
            "containerStatuses": [{"name": "app", "containerID": f"containerd://{'a' * 64}"}],
            "ephemeralContainerStatuses": [
                {"name": "debug", "containerID": f"containerd://{'b' * 64}"}
            ],
        },
    }
    return only(load(json.dumps(pod)))


def test_ephemeral_containers() -> None:
    workload = ephemeral()
    assert [(item.name, item.kind) for item in workload.containers] == [
        ("app", Kind.ORDINARY), ("debug", Kind.EPHEMERAL), ("plain", Kind.EPHEMERAL),
    ]  # fmt: skip
    assert kit.pod_qos(workload.pod) is kit.QoS.GUARANTEED, "they do not count"
    assert container(workload, "debug").container.id == "b" * 64
    path = f"/proc/{ids.process_id('a' * 64)}/ns/pid"
    assert spec_of(workload, "debug")["linux"]["namespaces"][0] == {"type": "pid", "path": path}
    assert spec_of(workload, "plain")["linux"]["namespaces"][0] == {"type": "pid"}
    assert TOKEN in mounts(workload, "app")
    assert TOKEN not in mounts(workload, "debug")


def test_ephemeral_containers_of_a_pod_that_shares_its_processes() -> None:
    workload = ephemeral(shareProcessNamespace=True)
    path = f"/proc/{workload.pod.pid}/ns/pid"
    assert spec_of(workload, "debug")["linux"]["namespaces"][0] == {"type": "pid", "path": path}


def test_an_ephemeral_container_with_a_missing_target_is_refused() -> None:
    with pytest.raises(ManifestError, match="there is no container 'db' in the pod"):
        ephemeral(ephemeralContainers=[{"name": "x", "image": "y", "targetContainerName": "db"}])


def test_no_label_without_a_value() -> None:
    assert "selinux_label" not in pod_file("best-effort.yaml").pod.labels


def test_a_full_name_that_the_kernel_does_not_take() -> None:
    """``GetNodenameForKernel``: 64 characters."""
    spec = {"hostname": "h" * 36, "subdomain": "s", "setHostnameAsFQDN": True}
    data = {"kind": "Pod", "metadata": {"name": "p", "namespace": "n"}, "spec": {**spec, **ONE}}
    fqdn = f"{'h' * 36}.s.n.svc.cluster.local"
    assert f"HOSTNAME={fqdn}" in container(only(load(json.dumps(data)))).container.env
    data["spec"]["hostname"] = "h" * 63  # type: ignore[index]
    with pytest.raises(ManifestError, match=r"setHostnameAsFQDN: makes h{63}\.s\.n.*64 characters"):
        load(json.dumps(data))


ONE = {"containers": [{"name": "app", "image": "x"}]}


def test_the_full_name_of_a_pod_of_a_stateful_set() -> None:
    template = {"spec": {**ONE, "setHostnameAsFQDN": True, "hostname": "ignored"}}
    data = {
        "kind": "StatefulSet",
        "metadata": {"name": "db"},
        "spec": {"serviceName": "dbs", "template": template},
    }
    found = container(only(load(json.dumps(data)))).container
    assert "HOSTNAME=db-0.dbs.default.svc.cluster.local" in found.env
