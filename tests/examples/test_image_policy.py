"""The images that may run, and the behaviour if the plugin cannot decide."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from examples.image_policy.plugin import Config, ImagePolicy
from nri_sync import api, kit
from nri_sync.errors import ConfigError, Reject
from nri_sync.testing import FakeRuntime, StartPlugin, make_container, make_pod

__all__: list[str] = []

DIGEST = f"sha256:{'0' * 64}"


@pytest.fixture
def plugin() -> Iterator[ImagePolicy]:
    plugin = ImagePolicy()
    plugin.config = Config(allow=["docker.io/library/*", "reg.example/team/*"], fail="closed")
    yield plugin
    plugin.on_stop()


class Verifier:
    """A verifier; ``answer`` is its answer, or None for none."""

    def __init__(self) -> None:
        self.answer: Any = {"allowed": True}
        self.questions: list[Any] = []
        self.release = threading.Event()
        verifier = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                verifier.questions.append(json.loads(body))
                if verifier.answer is None:
                    verifier.release.wait(20)
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps(verifier.answer).encode())

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = False
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self) -> None:
        self.release.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def verifier(plugin: ImagePolicy) -> Iterator[Verifier]:
    verifier = Verifier()
    plugin.config.verifier = verifier.url
    plugin.config.verifier_timeout = 20
    yield verifier
    verifier.close()


def refusal(plugin: ImagePolicy, image: api.Image | str = "nginx", namespace: str = "shop") -> str:
    """Return the plugin's objection; empty if the image may run."""
    pod = make_pod(namespace=namespace)
    try:
        plugin.create_container(pod, make_container(pod, image=image))
    except Reject as error:
        return str(error)
    return ""


def test_on_a_runtime(
    nri_runtime: FakeRuntime, nri_plugin: StartPlugin, plugin: ImagePolicy
) -> None:
    nri_plugin(plugin)
    pod = make_pod()
    nri_runtime.run_pod(pod)
    nri_runtime.create_container(pod, make_container(pod, image="docker.io/library/nginx:1.27"))
    refused = make_container(pod, image="quay.io/prometheus/busybox")
    result = nri_runtime.create_container(pod, refused, check=False)
    assert "image policy: quay.io/prometheus/busybox is not allowed" in str(result.error)
    assert len(nri_runtime.containers) == 1


@pytest.mark.parametrize(
    ("image", "refused"),
    [("nginx", False), ("docker.io/library/nginx:1", False), ("reg.example/team/web", False),
     ("reg.example/other/web", True), ("evil/nginx", True), ("docker.io.evil/library/nginx", True)],
)  # fmt: skip
def test_patterns(plugin: ImagePolicy, image: str, refused: bool) -> None:
    assert bool(refusal(plugin, image)) == refused


def test_namespaces_that_are_left_alone(plugin: ImagePolicy) -> None:
    assert refusal(plugin, "evil/nginx", "kube-system") == ""


def test_digests(plugin: ImagePolicy) -> None:
    plugin.config.require_digest = True
    assert "by its digest" in refusal(plugin, api.Image(name="nginx:1"))
    # The runtime has a digest for every tag.
    assert "by its digest" in refusal(plugin, api.Image(name="nginx:1", digest=DIGEST))
    assert refusal(plugin, api.Image(name=f"nginx@{DIGEST}")) == ""
    assert refusal(plugin, api.Image(name=f"nginx:1@{DIGEST}")) == ""


NAME, CRIO = "io.kubernetes.cri.image-name", "io.kubernetes.cri-o."
GOOD, EVIL, PINNED = (
    "reg.example/team/web:1",
    "evil.example/miner:1",
    f"reg.example/team/web@{DIGEST}",
)


def of_crio(name: str, asked: str = "1" * 64) -> dict[str, str]:
    return {f"{CRIO}ImageName": name, f"{CRIO}Image": asked, f"{CRIO}ImageRef": "1" * 64}


@pytest.mark.parametrize(
    ("runtime", "image", "annotations", "refused"),
    [
        # The pod's request counts, not containerd's digest for it.
        ("containerd", api.Image(name=PINNED, digest=DIGEST), {NAME: GOOD}, "by its digest"),
        ("containerd", api.Image(name=GOOD, digest=DIGEST), {NAME: PINNED}, ""),
        ("containerd", None, {NAME: PINNED}, ""),
        ("containerd", None, {NAME: GOOD}, "by its digest"),
        ("containerd", api.Image(name=EVIL), {NAME: PINNED}, "not allowed"),
        ("containerd", api.Image(name="no name"), {NAME: PINNED}, "undecided"),
        ("containerd", None, of_crio(PINNED, PINNED), "undecided"),
        ("cri-o", None, of_crio(PINNED), ""),
        ("cri-o", None, of_crio(PINNED, PINNED), ""),
        # The kubelet requests from CRI-O the digest that it found for a tag.
        ("cri-o", None, of_crio(GOOD, PINNED), "by its digest"),
        ("cri-o", None, {NAME: PINNED, **of_crio(EVIL)}, "not allowed"),
        ("cri-o", None, {NAME: PINNED, **of_crio(GOOD)}, "by its digest"),
        ("cri-o", None, {f"{CRIO}ImageRepoDigests": PINNED, **of_crio(GOOD)}, "by its digest"),
        ("cri-o", None, {NAME: PINNED}, "undecided"),
    ],
)  # fmt: skip
def test_the_decision_for_the_image_that_each_runtime_shows(
    plugin: ImagePolicy,
    runtime: str,
    image: api.Image | None,
    annotations: dict[str, str],
    refused: str,
) -> None:
    plugin.config.require_digest = True
    with FakeRuntime(runtime, "9.9.9") as node, node.run_plugin(plugin):
        pod = make_pod()
        node.run_pod(pod)
        container = make_container(pod, image=image or "")
        for key in list(container.annotations):
            del container.annotations[key]
        if image is None:
            container.ClearField("image")
        container.annotations.update(annotations)
        result = node.create_container(pod, container, check=False)
    assert refused in str(result.error or "")
    assert bool(result.error) == bool(refused)


def test_the_verifier_decides(plugin: ImagePolicy, verifier: Verifier) -> None:
    image = api.Image(name="nginx:1", digest=DIGEST)
    assert refusal(plugin, image) == ""
    question = {"namespace": "shop", "image": "docker.io/library/nginx:1", "digest": DIGEST}
    assert verifier.questions == [question]
    verifier.answer = {"allowed": False, "reason": "no signature"}
    plugin.config.fail = "open"  # applies only if the plugin cannot decide
    assert "not verified: no signature" in refusal(plugin, image)
    # The plugin does not call the verifier for images that no pattern allows.
    assert "not allowed" in refusal(plugin, "evil/nginx")
    assert len(verifier.questions) == 2


class TestDoubts:
    @pytest.fixture(params=["open", "closed"], autouse=True)
    def fail(self, request: pytest.FixtureRequest, plugin: ImagePolicy) -> str:
        plugin.config.fail = request.param
        return plugin.config.fail

    def check(self, plugin: ImagePolicy, image: api.Image | str = "nginx") -> None:
        said = refusal(plugin, image)
        assert ("undecided" in said) == (plugin.config.fail == "closed")
        assert bool(said) == (plugin.config.fail == "closed")

    def test_a_runtime_that_does_not_show_the_image(
        self, plugin: ImagePolicy, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.check(plugin, "")
        assert ("allowed, although" in caplog.text) == (plugin.config.fail == "open")

    @pytest.mark.parametrize("answer", [{}, [], "yes", 1, {"reason": "x"}])
    def test_a_verifier_with_an_invalid_answer(
        self, plugin: ImagePolicy, verifier: Verifier, answer: Any
    ) -> None:
        verifier.answer = answer
        self.check(plugin)

    def test_a_missing_verifier(self, plugin: ImagePolicy, verifier: Verifier) -> None:
        verifier.close()
        self.check(plugin)

    def test_a_verifier_that_does_not_answer(self, plugin: ImagePolicy, verifier: Verifier) -> None:
        verifier.answer = None
        plugin.config.verifier_timeout = 0.1
        self.check(plugin)


def test_open_or_closed_has_to_be_chosen() -> None:
    with pytest.raises(ConfigError, match="fail"):
        kit.load(Config, "allow: ['*']")
