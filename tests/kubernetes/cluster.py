"""A cluster of one node: etcd, the control plane and a kubelet, on the containerd of the end-to-end tests."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import socket
import ssl
import subprocess
import urllib.request
from datetime import datetime, timezone
from typing import Any

import grpc

from tests.e2e import machine
from tests.e2e.containerd import Containerd
from tests.kubernetes import host
from tests.kubernetes.build import Cached

__all__ = ["NAME", "PATIENCE", "Cluster", "address"]

# Time limit in seconds, enough for a machine with other load.
PATIENCE = 240.0
_REGISTERED = re.compile(r'time="([^"]+)Z".*registered as')
NAME = "localhost"  # the API server reaches the kubelet by it

KUBELET = """\
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://{root}/c.sock
podLogsDir: {root}/pod-logs
cgroupRoot: /{root.name}
cgroupDriver: cgroupfs
cgroupsPerQOS: true
failCgroupV1: false
enforceNodeAllocatable: []
failSwapOn: false
maxPods: 250
oomScoreAdj: 0
makeIPTablesUtilChains: false
localStorageCapacityIsolation: false
address: 127.0.0.1
port: {kubelet}
readOnlyPort: 0
healthzBindAddress: 127.0.0.1
healthzPort: {healthz}
authentication: {{anonymous: {{enabled: true}}, webhook: {{enabled: false}}}}
authorization: {{mode: AlwaysAllow}}
evictionHard:
  memory.available: "0%"
  nodefs.available: "0%"
  imagefs.available: "0%"
  nodefs.inodesFree: "0%"
  imagefs.inodesFree: "0%"
imageGCHighThresholdPercent: 100
volumePluginDir: {root}/kubelet/volumeplugins
resolvConf: ""
clusterDomain: cluster.local
"""
KUBECONFIG = """\
apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: "https://127.0.0.1:{api}", insecure-skip-tls-verify: true}}}}]
users: [{{name: u, user: {{token: {token}}}}}]
contexts: [{{name: x, context: {{cluster: c, user: u}}}}]
current-context: x
"""


class Cluster(Containerd):
    """A cluster, not started. It is a context manager; its end removes all traces from the machine."""

    # Pods mount the directory of the socket. It must not contain the other files of the runtime.
    nri_directory = "nri"
    disable_hugetlb_controller = True

    def __init__(self, cached: Cached) -> None:
        super().__init__(cached.runtime)
        self.cached = cached
        self.nri_socket.parent.mkdir()
        self.ports = dict(zip(("api", "etcd", "peer", "kubelet", "healthz"), _free_ports(5)))
        self.kubeconfig = self.root / "pki" / "admin.kubeconfig"
        self.tokens = {"admin": secrets.token_hex(), "kubelet": secrets.token_hex()}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    # Processes

    def start_cluster(self) -> None:
        """Start all processes. Returns when the node is ready for pods."""
        host.record(self.root)
        self.start()
        self.import_image(self.cached.plugin)
        self._write_files()
        self._start_control_plane()
        self._start_kubelet_first()
        self.wait(lambda: '"True"' in self._readiness(), "a node that is ready")
        for namespace in ("default", "kube-system"):
            self.wait_for_account(namespace)

    def wait_for_account(self, namespace: str) -> None:
        command = ("get", "serviceaccount", "default", "-n", namespace)
        self.wait(lambda: self.kubectl(*command, check=False), f"the account of {namespace}")

    def _write_files(self) -> None:
        # The processes of user namespaces have to pass; all with secrets is below a directory that they cannot.
        self.root.chmod(0o711)
        for name in ("kubelet", "pki", "etcd-data", "overlay", "handover"):
            (self.root / name).mkdir()
        (self.root / "pki").chmod(0o700)
        (self.root / "kubelet.yaml").write_text(KUBELET.format(root=self.root, **self.ports))
        for name, token in self.tokens.items():
            text = KUBECONFIG.format(token=token, **self.ports)
            (self.root / "pki" / f"{name}.kubeconfig").write_text(text)
        users = [
            ("admin", "admin", "system:masters"),
            ("kubelet", f"system:node:{NAME}", "system:nodes"),
        ]
        lines = [f'{self.tokens[key]},{user},{key},"{group}"' for key, user, group in users]
        (self.root / "pki" / "tokens.csv").write_text("\n".join(lines) + "\n")
        key = self.root / "pki" / "sa.key"
        subprocess.run(
            ["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True
        )
        # The kubelet does not create the parent of its cgroups.
        for hierarchy in [machine.CGROUPS, *machine.CGROUPS.glob("*/")]:
            with contextlib.suppress(OSError):
                (hierarchy / self.root.name).mkdir()

    def _start_control_plane(self) -> None:
        root, ports, pki = self.root, self.ports, self.root / "pki"
        etcd, peer = (f"http://127.0.0.1:{ports[name]}" for name in ("etcd", "peer"))
        self._run(
            "etcd", f"--data-dir={root}/etcd-data", f"--listen-client-urls={etcd}",
            f"--advertise-client-urls={etcd}", f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=default={peer}",
        )  # fmt: skip
        self._run(
            "kube-apiserver", f"--etcd-servers={etcd}", f"--cert-dir={pki}",
            "--bind-address=127.0.0.1", f"--advertise-address={address()}",
            f"--secure-port={ports['api']}", f"--token-auth-file={pki}/tokens.csv",
            "--authorization-mode=Node,RBAC", "--service-cluster-ip-range=10.96.0.0/16",
            "--endpoint-reconciler-type=none", "--service-account-issuer=https://cluster",
            f"--service-account-key-file={pki}/sa.key",
            f"--service-account-signing-key-file={pki}/sa.key",
            "--enable-priority-and-fairness=false",
            "--kubelet-preferred-address-types=Hostname", "--allow-privileged=true",
        )  # fmt: skip
        self.wait(lambda: self.kubectl("get", "--raw", "/readyz", check=False), "the API server")
        self._run(
            "kube-controller-manager", f"--kubeconfig={self.kubeconfig}", "--leader-elect=false",
            "--secure-port=0", f"--service-account-private-key-file={pki}/sa.key",
            f"--root-ca-file={pki}/apiserver.crt", f"--cert-dir={pki}",
        )  # fmt: skip
        self._run(
            "kube-scheduler", f"--kubeconfig={self.kubeconfig}", "--leader-elect=false",
            "--secure-port=0",
        )  # fmt: skip

    def _start_kubelet_first(self) -> None:
        self.start_kubelet()
        self.wait(lambda: self._readiness() != "", "a node")

    def start_kubelet(self) -> None:
        """Start the kubelet. Returns when it is healthy."""
        self._run(
            "kubelet", f"--config={self.root}/kubelet.yaml", f"--root-dir={self.root}/kubelet",
            f"--cert-dir={self.root}/kubelet/pki", f"--hostname-override={NAME}",
            f"--node-ip={address()}", f"--kubeconfig={self.root}/pki/kubelet.kubeconfig",
        )  # fmt: skip
        self.wait(self._kubelet_is_healthy, "a kubelet that is healthy")
        host.restore_sysctls(self.root)

    def _kubelet_is_healthy(self) -> bool:
        url = f"http://127.0.0.1:{self.ports['healthz']}/healthz"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return True
        return False

    def _readiness(self) -> str:
        path = '{.items[0].status.conditions[?(@.type=="Ready")].status}'
        found = self.kubectl("get", "nodes", "-o", f"jsonpath={path}", check=False)
        return f'"{found}"' if found else ""

    def stop_kubelet(self) -> None:
        self._stop("kubelet")

    def _run(self, name: str, *arguments: str) -> None:
        with (self.root / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [str(self.cached.program(name)), *arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def _stop(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is not None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(30)

    def wait(self, condition: Any, what: str) -> None:
        """Wait until ``condition()`` is true. Fails when a process ends before."""

        def holds() -> bool:
            for name, process in self._processes.items():
                if process.poll() is not None:
                    raise RuntimeError(f"{name} has ended:\n{self.log_of(name)}")
            return bool(condition())

        try:
            machine.wait_for(holds, PATIENCE)
        except TimeoutError:
            raise TimeoutError(f"{what} has not come within {PATIENCE} s") from None

    def listening_after(self, began: float) -> float:
        """The time after ``began`` at which containerd listened on the NRI socket, from the time of its file."""
        found = self.nri_socket.stat().st_mtime
        assert found > began
        return found

    def registered_after(self, began: float) -> float:
        """The time after ``began`` at which containerd logged a plugin's registration; 0.0 if it has not."""
        for line in reversed(self.log.read_text(errors="replace").splitlines()):
            noted = _REGISTERED.search(line)
            if noted:
                at = datetime.fromisoformat(noted[1][:26]).replace(tzinfo=timezone.utc).timestamp()
                return at if at > began else 0.0
        return 0.0

    def log_of(self, name: str) -> str:
        path = self.root / f"{name}.log"
        return path.read_text(errors="replace")[-4000:] if path.exists() else ""

    def __exit__(self, *exc_info: object) -> None:
        try:
            for name in ("kubelet", "kube-scheduler", "kube-controller-manager"):
                self._stop(name)
            self._stop("kube-apiserver")
            self._stop("etcd")
            if not self.running:
                self.start()
            machine.wait_for(self._remove_pods, PATIENCE)
        finally:
            machine.unmount(self.root / "kubelet")
            super().__exit__(*exc_info)

    def _remove_pods(self) -> bool:
        """Remove the pods; whether all are gone. containerd keeps a pod whose process is still ending."""
        try:
            self.cri.remove_all()
        except grpc.RpcError:
            return False
        return True

    # The API

    def kubectl(self, *arguments: str, input: str | None = None, check: bool = True) -> str:
        """The output of kubectl. If it fails, and ``check`` is False, the output is empty."""
        done = subprocess.run(
            [str(self.cached.kubectl), *arguments],
            input=input, env=self.environment, capture_output=True, text=True, check=False,
            timeout=PATIENCE,
        )  # fmt: skip
        if done.returncode:
            if check:
                raise RuntimeError(f"kubectl {' '.join(arguments)} failed:\n{done.stderr}")
            return ""
        return done.stdout

    @property
    def environment(self) -> dict[str, str]:
        """The environment for commands that use the cluster and its containerd."""
        return {
            **os.environ,
            "PATH": f"{self.cached.directory}:{self.tools.directory}:{os.environ['PATH']}",
            "KUBECONFIG": str(self.kubeconfig),
            "KUBECACHEDIR": str(self.root / "kubectl-cache"),
            "CONTAINERD_ADDRESS": str(self.root / "c.sock"),
        }

    def get(self, *arguments: str) -> Any:
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def create_pod(self, manifest: dict[str, Any]) -> None:
        """Create a pod without kubectl, whose start takes a tenth of a second."""
        url = f"https://127.0.0.1:{self.ports['api']}/api/v1/namespaces/default/pods"
        headers = {
            "Authorization": f"Bearer {self.tokens['admin']}",
            "Content-Type": "application/json",
        }
        request = urllib.request.Request(url, json.dumps(manifest).encode(), headers)
        # The server has signed its certificate itself.
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with urllib.request.urlopen(request, timeout=60, context=context):
            pass


def _free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that no process uses at the moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]


def address() -> str:
    """An address of this machine. Kubernetes rejects an address of the loopback interface for a node."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        # connect() on a UDP socket sends no packet.
        sock.connect(("192.0.2.1", 9))
        return str(sock.getsockname()[0])
