"""Several plugins at once, on our stub and on the Go stub: their order, and the merged answers."""

from __future__ import annotations

import grpc
import pytest

from nri_sync import api
from tests.e2e.conftest import Connect, RunGo
from tests.e2e.cri import Container, Pod
from tests.e2e.inside import Inside
from tests.interop.plugins import Recorder, Validator

__all__: list[str] = []

feature = pytest.mark.feature


def env(key: str, value: str) -> api.Adjustment:
    return api.Adjustment().add_env(key, value)


@feature("Several plugins: in the order of their indices, each sees what others did")
def test_order(pod: Pod, connect: Connect, run_go: RunGo) -> None:
    last = Recorder(create_container=env("LAST", "3"))
    connect(last, name="last", idx="90")
    go = run_go("-env", "1", "-trace")
    connect(Recorder(create_container=env("FIRST", "1")), name="first", idx="10")
    inside = Inside(pod.run())
    assert {key: inside.env[key] for key in ("FIRST", "gostub_0", "LAST")} == {
        "FIRST": "1", "gostub_0": "value", "LAST": "3",
    }  # fmt: skip
    _, seen_by_go = go.wait_event("event")["data"]["args"]
    assert "FIRST=1" in seen_by_go["env"]
    assert not any(entry.startswith("LAST=") for entry in seen_by_go["env"])
    _, seen_last = last.expect("create_container")
    assert {"FIRST=1", "gostub_0=value"} <= set(seen_last.env)


@feature("Several plugins: a conflict fails the creation")
@pytest.mark.parametrize("idx", ["10", "90"])
def test_conflict(pod: Pod, connect: Connect, run_go: RunGo, idx: str) -> None:
    run_go("-env", "1")
    connect(Recorder(create_container=env("gostub_0", "mine")), idx=idx)
    names = ("50-gostub", f"{idx}-py") if idx == "10" else (f"{idx}-py", "50-gostub")
    text = f'plugins "{names[0]}" and "{names[1]}" both tried to set (Env|env) gostub_0'
    with pytest.raises(grpc.RpcError, match=text):
        pod.create()


@feature("Several plugins: a later one takes over by removing first")
def test_taking_over(pod: Pod, connect: Connect, run_go: RunGo) -> None:
    run_go("-env", "2")
    adjustment = api.Adjustment().remove_env("gostub_0").add_env("gostub_0", "mine")
    connect(Recorder(create_container=adjustment.remove_env("gostub_1")), idx="90")
    inside = Inside(pod.run())
    assert inside.env["gostub_0"] == "mine"
    assert "gostub_1" not in inside.env


@feature("Several plugins: hooks, mounts and annotations add up")
def test_merging(pod: Pod, connect: Connect, run_go: RunGo) -> None:
    run_go("-annotations", "2")
    for idx in ("10", "90"):
        adjustment = api.Adjustment().add_annotation(f"py/{idx}", idx)
        adjustment.add_hook("poststop", "/bin/true", args=["true", idx])
        connect(Recorder(create_container=adjustment), idx=idx)
    specification = pod.run().info["runtimeSpec"]
    ours = {
        key: value
        for key, value in specification["annotations"].items()
        if key.startswith(("py/", "gostub/"))
    }
    assert ours == {"py/10": "10", "py/90": "90", "gostub/0": "value", "gostub/1": "value"}
    assert [hook["args"][1] for hook in specification["hooks"]["poststop"]] == ["10", "90"]


@feature("Several plugins: updates of one container conflict")
def test_conflicting_updates(connect: Connect, pod: Pod, container: Container) -> None:
    for idx, shares in (("10", 44), ("90", 55)):
        update = api.Update(container.id).set_cpu(shares=shares)
        connect(Recorder(create_container=(None, [update])), idx=idx)
    with pytest.raises(
        grpc.RpcError, match=r'"90-py" and "10-py" both tried to set CPU ?[Ss]hares'
    ):
        pod.create()
    assert Inside(container).cpu_shares not in (44, 55)


@feature("Updates of the container that is being created are refused")
def test_update_of_itself(connect: Connect, pod: Pod) -> None:
    def answer(pod: api.PodSandbox, container: api.Container) -> object:
        return None, [api.Update(container.id, ignore_failure=True).set_cpu(shares=5)]

    connect(Recorder(create_container=answer))
    with pytest.raises(grpc.RpcError, match=r'plugin "10-py" asked update of ".*" during creation'):
        pod.create()


class TestValidation:
    @feature("Validation: by a plugin of this package")
    def test_of_the_other_by_this(self, pod: Pod, connect: Connect, run_go: RunGo) -> None:
        seen: list[api.ValidateContainerAdjustmentRequest] = []

        def validate(request: api.ValidateContainerAdjustmentRequest) -> None:
            seen.append(request)
            if any(entry.key == "gostub_0" for entry in request.adjust.env):
                raise PermissionError("nobody sets gostub_0 here")

        connect(Validator(validate_container_adjustment=validate))
        pod.create()
        go = run_go("-env", "1")
        with pytest.raises(grpc.RpcError, match="nobody sets gostub_0 here"):
            pod.create()
        go.call("stop")
        assert {plugin.name for plugin in seen[1].plugins} >= {"gostub", "py"}

    @feature("Validation: by a plugin of the reference")
    def test_of_this_by_the_other(self, pod: Pod, connect: Connect, run_go: RunGo) -> None:
        run_go("-reject", "not like this", "-events", "ValidateContainerAdjustment")
        connect(Recorder(create_container=env("A", "1")))
        with pytest.raises(grpc.RpcError, match="not like this"):
            pod.create()


@feature("A plugin that registers twice: both are called")
def test_twins(pod: Pod, connect: Connect) -> None:
    plugins = [Recorder(), Recorder()]
    for plugin in plugins:
        connect(plugin)
    container = pod.create()
    for plugin in plugins:
        assert plugin.expect("create_container")[1].id == container.id
