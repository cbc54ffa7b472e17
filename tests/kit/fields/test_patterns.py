"""Regular expressions in linear time: the same answers as Python's ``re``, whose syntax this part shares."""

from __future__ import annotations

import random
import re
import threading
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nri_sync.kit.fields.patterns import Pattern
from tests.memory import reachable

__all__: list[str] = []

_ITEMS = [
    "a", "b", "é", ".", "[ab]", "[^a]", "[a-c\\d]", "[]a]", "[a-]", "\\w", "\\W", "\\d", "\\s", "\\b", "\\B",
    "^", "$", "\\.", "\\n", "\\x41", "-", "{", "a{x}", "(?:)",
]  # fmt: skip
_REPETITIONS = ["", "", "", "*", "+", "?", "*?", "{2}", "{1,}", "{0,2}", "{3}?"]


def _of_parts(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    repeated = st.tuples(parts, st.sampled_from(_REPETITIONS)).map(
        lambda both: f"(?:{both[0]}){both[1]}"
    )
    sequences = st.lists(repeated, max_size=3).map("".join)
    return st.one_of(
        sequences, st.lists(sequences, min_size=1, max_size=3).map("|".join).map("({})".format)
    )


PATTERNS = st.recursive(st.sampled_from(_ITEMS), _of_parts, max_leaves=8)
# Before Python 3.14, \B does not match in an empty text.
TEXTS = st.text(st.sampled_from("aabbcAB01_ .-{}x\né\0"), min_size=1, max_size=12)


@given(st.sampled_from(["", "(?i)", "(?s)", "(?is)"]), PATTERNS, TEXTS)
def test_a_search_finds_the_same_as_python(flags: str, pattern: str, text: str) -> None:
    # \Z of Python is $ of RE2.
    theirs = re.compile(flags + re.sub(r"(?<!\\)\$", r"\\Z", pattern), re.ASCII)
    expected = theirs.search(text) is not None
    made = Pattern(flags + pattern)
    assert made.search(text) is expected
    assert made.search(text) is expected, "what is remembered is the same"


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("^yes$", "yes", True),
        ("^yes$", "yes\n", False),
        ("", "", True),
        ("", "a", True),
        (r"\B", "", True),
        (r"\b", "", False),
        ("^$", "", True),
        ("a+|^b", "", False),
        ("a||b", "", True),
        ("(?P<name>a)(?<other>b)", "ab", True),
        ("^/usr/bin/(nvidia|amd)-.*$", "/usr/bin/nvidia-smi", True),
        (r"^hook\.example\.com$", "hook-example.com", False),
        (r"\x{1F600}", "\N{GRINNING FACE}", True),
        (r"[\x41-\x43]{2}", "xBCx", True),
        (r"\Afoo\z", "foo", True),
        ("(a*)*b", "aaab", True),
        ("(|a)+$", "aaa", True),
        ("(?i)straSSe", "STRASSE", True),
        ("[.*+?()|{}$^]", "^", True),
        ("}]", "x}]", True),
    ],
)
def test_patterns_of_administrators(pattern: str, text: str, found: bool) -> None:
    assert Pattern(pattern).search(text) is found


@pytest.mark.parametrize(
    "pattern",
    [
        "(", ")", "a)", "(a", "[", "[]", "[a",
        "[b-a]", "[a-\\d]", "[[:alpha:]]", "[\\D]", "*", "a**", "a{2}{3}", "a{2,1}",
        "a{1001}", "(?=a)", "(?!a)", "(?<=a)", "(?<!a)", "(?P=n)",
        "(?m)^a", "(?P<>a)", "(?P<na", "\\", "\\1", "\\pL", "\\Z",
        "\\xg0", "\\x4", "\\x{}", "\\x{110000}", "\\x{41", "a|*", "(?", "(?P", "(?i", "a\\C", "a{2}*",
    ],
)  # fmt: skip
def test_mistakes(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"^invalid pattern "):
        Pattern(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "(" * 60,
        "(" * 1_000_000,
        "(a{1000}){1000}",
        "((((){1000}){1000}){1000}){1000}",
        "a" * 1_000_000,
        "[" + "a-z" * 1_000_000,
    ],
)
def test_too_large(pattern: str) -> None:
    before = time.process_time()
    with pytest.raises(ValueError, match=r"invalid pattern .*(too large|too deeply)") as caught:
        Pattern(pattern)
    assert len(str(caught.value)) < 300
    assert time.process_time() - before < 10


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("^([a-z]+)+$", "a" * 200_000 + "!"),
        ("^(a|a)*$", "a" * 200_000 + "!"),
        ("a*a*a*a*a*b", "a" * 200_000),
        ("(.*)(.*)(.*)(.*)[0-9]$", "x" * 200_000),
        ("(x+x+)+y", "x" * 200_000),
        # Each character leads to another state.
        ("(a|b)*a(a|b){12}$", ("ab" * 7 + "ba" * 5 + "a") * 4_000 + "!"),
    ],
)
def test_the_work_is_linear(pattern: str, text: str) -> None:
    before = time.process_time()
    assert not Pattern(pattern).search(text)
    assert time.process_time() - before < 20


def test_the_cache_of_steps_is_bounded() -> None:
    made = Pattern("[^x]x")
    before = len(reachable(made))
    assert not made.search("".join(chr(0x4E00 + number) for number in range(20_000)))
    # 5,000 steps, each with its key: the character, a tuple and a set.
    assert len(reachable(made)) - before <= 5_000 * 4


def test_several_threads_at_once() -> None:
    made = Pattern("(a|b)*a(a|b){8}c")
    texts = ["ab" * 50 + "b" * number + "c" for number in range(20)]
    found = [re.search(made.pattern, text) is not None for text in texts]
    assert set(found) == {True, False}
    wrong: list[str] = []

    def search() -> None:
        for _ in range(20):
            if list(map(made.search, texts)) != found:
                wrong.append("once")

    threads = [threading.Thread(target=search) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_cache_is_bounded_whatever_the_pattern() -> None:
    pattern = Pattern("(.*a.{900}){2}z")
    text = "".join(random.Random(1).choice("ab") for _ in range(700))
    tracemalloc.start()
    try:
        assert not pattern.search(text)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 10_000_000
