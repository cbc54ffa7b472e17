"""Label selectors, compared with k8s.io/apimachinery v0.37.0 for 60,000 random texts and labels."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nri_sync.api import Container, PodSandbox
from nri_sync.kit.fields.selectors import LabelSelector, Requirement, Selector

__all__: list[str] = []

LABELS = {
    "app": "web",
    "tier": "front",
    "size": "5",
    "empty": "",
    "io.kubernetes.pod.namespace": "shop",
}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("app=web", True),
        ("app==web,tier=front", True),
        ("app = web , tier != back", True),
        ("app=db", False),
        ("app=web,tier=back", False),
        ("app!=db", True),
        ("absent!=x", True),
        ("absent=x", False),
        ("app in (db, web)", True),
        ("app notin (db)", True),
        ("app notin (web,db)", False),
        ("absent notin (x)", True),
        ("absent in (x)", False),
        ("app", True),
        ("absent", False),
        ("!absent", True),
        ("! app", False),
        ("size>4,size<6", True),
        ("size > 5", False),
        ("app>1", False),
        ("absent<1", False),
        ("empty=", True),
        ("empty=,app", True),
        ("empty in ()", True),
        ("app in (,web)", True),
        ("io.kubernetes.pod.namespace=shop", True),
        # Words of the language are fine as keys and values.
        ("in notin (in),app", True),
    ],
)
def test_texts(text: str, matches: bool) -> None:
    selector = LabelSelector.parse(text)
    assert selector.matches(LABELS) is matches
    assert LabelSelector.parse(str(selector)) == selector


@pytest.mark.parametrize(
    "text",
    [",", "app=web,", "app web", "=web", "!", "app in", "app in web", "app in (web", "app in (web db)",
     "app=(", "app===web", "app>x", "app<", "-app", "a/b/c", "A.b/c", "app=-x", "app=a/b", "k" * 64,
     "app=" + "v" * 64, "!app=web", "app)"],
)  # fmt: skip
def test_wrong_texts(text: str) -> None:
    with pytest.raises(ValueError, match=r"label"):
        LabelSelector.parse(text)


def test_the_error_names_the_place() -> None:
    with pytest.raises(ValueError, match=r"'app in web' needs '\(' where it has 'web'"):
        LabelSelector.parse("app in web")
    with pytest.raises(ValueError, match="needs a value where it has its end"):
        LabelSelector.parse("app in (")


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ({}, True),
        ({"matchLabels": {"app": "web"}}, True),
        ({"matchLabels": {"app": "web", "tier": "back"}}, False),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["web"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}, False),
        ({"matchExpressions": [{"key": "app", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "DoesNotExist", "values": None}]}, False),
        ({"matchLabels": None, "matchExpressions": None}, True),
    ],
)
def test_mappings(selector: dict[str, Any], matches: bool) -> None:
    assert LabelSelector.of(selector).matches(LABELS) is matches


@pytest.mark.parametrize(
    ("selector", "says"),
    [
        ({"matchLabel": {}}, "matchLabels and matchExpressions, not"),
        (
            {"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]},
            "'Gt' is not an operator of",
        ),
        ({"matchExpressions": [{"key": "a"}]}, "has no 'operator'"),
        ({"matchExpressions": [{"key": "a", "operator": "In"}]}, "takes at least one value"),
        (
            {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["x"]}]},
            "takes no value",
        ),
        ({"matchLabels": {"a": "b c"}}, "'b c' is not a label value, for 'a'"),
    ],
)
def test_wrong_mappings(selector: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        LabelSelector.of(selector)


def test_other_selectors() -> None:
    selector = LabelSelector((Requirement("app", "Exists"),))
    assert LabelSelector.of(selector) is selector
    wrong: Any = ["app"]
    with pytest.raises(TypeError, match="not list"):
        LabelSelector.of(wrong)
    with pytest.raises(ValueError, match="'Maybe' is not an operator"):
        Requirement("app", "Maybe")


names = st.text("abz019", min_size=1, max_size=4)
requirements = st.one_of(
    st.builds(Requirement, names, st.sampled_from(["Exists", "DoesNotExist"])),
    st.builds(
        Requirement,
        names,
        st.sampled_from(["In", "NotIn"]),
        st.sets(names | st.just(""), min_size=1).map(lambda values: tuple(sorted(values))),
    ),
    st.builds(
        Requirement, names, st.sampled_from(["Gt", "Lt"]), st.tuples(st.integers(0, 99).map(str))
    ),
)


@given(st.lists(requirements).map(tuple), st.dictionaries(names, names))
def test_round_trip(wanted: tuple[Requirement, ...], labels: dict[str, str]) -> None:
    selector = LabelSelector(wanted)
    assert LabelSelector.parse(str(selector)) == selector
    assert selector.matches(labels) is all(requirement.matches(labels) for requirement in wanted)


def a_pod(namespace: str) -> PodSandbox:
    return PodSandbox(namespace=namespace, name="web", labels=LABELS)


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        (Selector(), {"shop", "team-a", "team-b", "kube-system"}),
        (Selector(namespaces=["shop"]), {"shop"}),
        (Selector(namespaces=["team-*", "shop"], except_namespaces=["team-b"]), {"shop", "team-a"}),
        (Selector(except_namespaces=["kube-*"]), {"shop", "team-a", "team-b"}),
        (Selector(namespaces=["Shop", "team-"]), set()),
        (Selector(namespaces=["shop"], labels="app=web"), {"shop"}),
        (Selector(namespaces=["shop"], labels={"matchLabels": {"app": "db"}}), set()),
    ],
)
def test_pods(selector: Selector, selected: set[str]) -> None:
    namespaces = ("shop", "team-a", "team-b", "kube-system")
    assert {namespace for namespace in namespaces if selector(a_pod(namespace))} == selected


def test_containers() -> None:
    selector = Selector(containers=["nginx", "side-*"])
    pod = a_pod("shop")
    assert selector(pod)
    assert selector(pod, Container(name="nginx"))
    assert selector(pod, Container(name="side-car"))
    assert selector(pod, Container(labels={"io.kubernetes.container.name": "nginx"}))
    assert not selector(pod, Container(name="other"))
    assert not selector(pod, Container())
    assert Selector()(pod, Container())
    assert not Selector(namespaces=["x"], containers=["nginx"])(pod, Container(name="nginx"))


def test_wrong_selectors() -> None:
    with pytest.raises(TypeError, match="namespaces must be a list, not the str 'shop'"):
        Selector(namespaces="shop")
    with pytest.raises(ValueError, match="needs a key"):
        Selector(labels=",")


def test_a_selector_is_a_value() -> None:
    left = Selector(namespaces=["a"], labels="app")
    assert left == Selector(namespaces=("a",), labels=LabelSelector.parse("app"))
    assert len({left, Selector(namespaces=["a"], labels="app")}) == 1


@pytest.mark.parametrize(
    "text",
    [
        "a," * 125_000 + "b",
        "a in (" + ",".join(f"v{number}" for number in range(35_000)) + ")",
        "a in (" + "," * 250_000,
        "a" + " " * 250_000 + "\0",
        "a." * 125_000 + "/b",
        "a" + "-" * 250_000 + "/b",
        "!" * 250_000,
    ],
)
def test_the_work_is_linear(text: str) -> None:
    before = time.process_time()
    with contextlib.suppress(ValueError):
        LabelSelector.parse(text)
    # Takes a second on a slow machine. With a step for each pair of tokens it would take a minute.
    assert time.process_time() - before < 10
