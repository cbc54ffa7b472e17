"""Variables, and references to them."""

from __future__ import annotations

import time
import tracemalloc
from typing import Any

import pytest

from nri_sync.kit import Quantity
from nri_sync.testing.manifests.environment import Environment, Objects, expand
from nri_sync.testing.manifests.model import Assumptions, Kind, ManifestError
from nri_sync.testing.manifests.resources import ContainerAmounts, PodAmounts
from nri_sync.testing.manifests.services import service_env
from tests.testing.manifests import fields

__all__: list[str] = []

SERVICES = service_env({}, "shop", True, Assumptions(), print)


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        # From the tests of third_party/forked/golang/expansion in Kubernetes.
        ("$(A)", "a"),
        ("___$(B)___$(A)", "___b___a"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$a"),
        ("$$$$(A)", "$$(A)"),
        ("$(MISSING)", "$(MISSING)"),
        ("$A ${A} $", "$A ${A} $"),
        ("$(A", "$(A"),
        ("$()", "$()"),
        ("$($(A))", "$($(A))"),
        ("$(A)\n$(B)", "a\nb"),
        ("", ""),
    ],
)
def test_references(text: str, expanded: str) -> None:
    assert expand(text, {"A": "a"}, {"A": "other", "B": "b"}) == expanded


def amounts(**limits: str) -> ContainerAmounts:
    parsed = {name: Quantity.parse(limit) for name, limit in limits.items()}
    return ContainerAmounts("main", Kind.ORDINARY, dict(parsed), parsed)


def env(container: Any, notes: list[str] | None = None, **more: Any) -> dict[str, str]:
    own: ContainerAmounts = more.pop("amounts", amounts())
    pod = more.pop("pod", PodAmounts([own]))
    environment = Environment(
        labels={"app": "web"},
        annotations={"a/b": "c"},
        values={"metadata.name": "pod", "status.podIP": "10.0.0.1"},
        namespace="shop",
        amounts=pod,
        assumptions=Assumptions(cpus=4, memory=8 << 30, **more),
        objects=Objects(
            {("shop", "settings"): {"z": "1", "a": "2"}}, {("shop", "login"): {"user": "me"}}
        ),
        services=SERVICES,
    )
    collected = [] if notes is None else notes
    found = environment.of(fields(container), own, collected.append)
    return {key: value for key, value in found.items() if SERVICES.get(key) != value}


def test_the_services_come_last() -> None:
    environment = Environment(
        {}, {}, {}, "shop", PodAmounts([]), Assumptions(), Objects(), SERVICES
    )
    found = environment.of(fields({"env": [{"name": "A", "value": "1"}]}), amounts(), print)
    assert list(found) == ["A", *SERVICES]
    assert found["KUBERNETES_SERVICE_HOST"] == "10.96.0.1"
    assert found["KUBERNETES_PORT_443_TCP"] == "tcp://10.96.0.1:443"


def test_references_without_an_end_are_cheap() -> None:
    before = time.process_time()
    for text in ("$(" * 500_000, "$(" * 500_000 + ")", "$$" * 500_000, "$(A)" * 250_000):
        expand(text, {"A": "a"})
    assert time.process_time() - before < 10


def test_references_to_references_do_not_grow_without_end() -> None:
    entries = [
        {"name": f"A{n}", "value": f"$(A{n - 1})" * 10 if n else "x" * 10} for n in range(20)
    ]
    with pytest.raises(ManifestError, match=r"is longer than 1,048,576 characters"):
        env({"env": entries})
    entries = [{"name": f"A{n}", "value": "$(A0)" if n else "x" * 100_000} for n in range(200)]
    with pytest.raises(ManifestError, match=r"env: has more than 16,777,216 characters in all"):
        env({"env": entries})


def test_the_variables_of_all_containers_are_bounded() -> None:
    # One ConfigMap of 1 MB, which each of 2,000 containers has, and one of 2,000 keys with 3,000 prefixes.
    big, wide = {"k": "x" * 1_000_000}, {f"k{n}": "v" for n in range(2000)}
    for data, containers in (
        (big, [[""]] * 2000),
        (wide, [[f"P{number}_" for number in range(3000)]]),
    ):
        objects = Objects(config_maps={("shop", "m"): data})
        environment = Environment(
            {}, {}, {}, "shop", PodAmounts([]), Assumptions(), objects, SERVICES
        )

        def read(environment: Environment, containers: list[list[str]]) -> None:
            for prefixes in containers:
                sources = [{"prefix": p, "configMapRef": {"name": "m"}} for p in prefixes]
                environment.of(fields({"envFrom": sources}), amounts(), print)

        tracemalloc.start()
        try:
            with pytest.raises(ManifestError, match=r"envFrom: the variables of all containers"):
                read(environment, containers)
            assert tracemalloc.get_traced_memory()[1] < 300 << 20
        finally:
            tracemalloc.stop()


def test_values_refer_to_earlier_variables_and_to_services() -> None:
    found = env(
        {
            "env": [
                {"name": "A", "value": "1"},
                {"name": "B", "value": "$(A)$(C)$(KUBERNETES_SERVICE_PORT)"},
                {"name": "C", "value": "3"},
                {"name": "A", "value": "again $(A)"},
                {"name": "EMPTY"},
            ]
        }
    )
    assert found == {"A": "again 1", "B": "1$(C)443", "C": "3", "EMPTY": ""}


def test_all_of_a_config_map_or_secret() -> None:
    sources = [
        {"configMapRef": {"name": "settings"}},
        {"secretRef": {"name": "login"}, "prefix": "DB_"},
        {"configMapRef": {"name": "none", "optional": True}},
        {},
    ]
    container = {"envFrom": sources, "env": [{"name": "z", "value": "<$(z)>"}]}
    assert env(container) == {"a": "2", "z": "<1>", "DB_user": "me"}


def test_a_note_names_each_missing_source() -> None:
    notes: list[str] = []
    container = {
        "envFrom": [{"secretRef": {"name": "none"}}],
        "env": [
            {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "none", "key": "k"}}},
            {"name": "B", "valueFrom": {"fileKeyRef": {"volumeName": "v", "path": "p", "key": "k"}}},
        ],
    }  # fmt: skip
    assert env(container, notes) == {"A": "<k of ConfigMap none>", "B": "<k of a file>"}
    assert [note.split(":")[0] for note in notes] == [
        "the variables of Secret none are unknown",
        "the value of A is unknown",
        "the value of B is unknown",
    ]


def value_of(source: Any, **more: Any) -> str | None:
    return env({"env": [{"name": "V", "valueFrom": source}]}, **more).get("V")


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ({"fieldRef": {"fieldPath": "metadata.name"}}, "pod"),
        ({"fieldRef": {"fieldPath": "metadata.labels['app']"}}, "web"),
        ({"fieldRef": {"fieldPath": "metadata.labels['none']"}}, ""),
        ({"fieldRef": {"fieldPath": "metadata.annotations['a/b']"}}, "c"),
        ({"configMapKeyRef": {"name": "settings", "key": "a"}}, "2"),
        ({"secretKeyRef": {"name": "login", "key": "user"}}, "me"),
        ({"secretKeyRef": {"name": "login", "key": "none", "optional": True}}, None),
    ],
)
def test_values_from_elsewhere(source: Any, value: str | None) -> None:
    assert value_of(source) == value


@pytest.mark.parametrize(
    ("resource", "divisor", "value"),
    [
        ("limits.cpu", None, "2"),
        ("limits.cpu", "1m", "1500"),
        ("requests.cpu", "0", "2"),
        ("limits.memory", None, str(100 << 20)),
        ("limits.memory", "1Gi", "1"),
        ("requests.ephemeral-storage", None, "0"),
        ("limits.hugepages-2Mi", None, "0"),
    ],
)
def test_resources(resource: str, divisor: str | None, value: str) -> None:
    own = amounts(cpu="1500m", memory="100Mi")
    source = {"resourceFieldRef": {"resource": resource, "divisor": divisor}}
    assert value_of(source, amounts=own) == value


def test_missing_limits_come_from_the_pod_or_the_node() -> None:
    def limit(name: str, **more: Any) -> str | None:
        return value_of({"resourceFieldRef": {"resource": f"limits.{name}"}}, **more)

    assert (limit("cpu"), limit("memory")) == ("4", str((8 << 30) - (100 << 20)))
    of_pod = PodAmounts([amounts()], limits={"cpu": Quantity.of(3)}, own=True)
    assert limit("cpu", pod=of_pod) == "3"


def test_resources_of_another_container() -> None:
    other = ContainerAmounts("other", Kind.ORDINARY, {"cpu": Quantity.of(7)}, {})
    source = {"resourceFieldRef": {"resource": "requests.cpu", "containerName": "other"}}
    assert value_of(source, pod=PodAmounts([amounts(), other])) == "7"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ({"fieldRef": {"fieldPath": "spec.hostname"}}, "'spec.hostname' is not available in variables"),
        ({"resourceFieldRef": {"resource": "cpu"}}, "'cpu' is none of limits.cpu"),
        ({"resourceFieldRef": {"resource": "limits.cpu", "containerName": "x"}}, "there is no container 'x'"),
        ({"secretKeyRef": {"name": "login", "key": "none"}}, "Secret login has no 'none'"),
        ({"secretKeyRef": {"key": "none"}}, "secretKeyRef.name: is missing: name the Secret"),
        ({"other": {}}, "has none of fieldRef"),
    ],
)  # fmt: skip
def test_an_invalid_source_is_refused(source: Any, text: str) -> None:
    with pytest.raises(ManifestError, match=text):
        value_of(source)
