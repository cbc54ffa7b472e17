"""Regular expressions for texts from untrusted authors of pods: :class:`Pattern`.

Python's ``re`` tries one match after the other: ``^([a-z]+)+$`` takes seconds for 27 characters, twice as long for
each further one, and holds the interpreter's lock meanwhile. :class:`Pattern` follows all matches at once, one
character after the other, as RE2 and Go do: Russ Cox, "Regular Expression Matching Can Be Simple And Fast". The
syntax is a part of RE2's (https://github.com/google/re2/wiki/Syntax). Immutable, without I/O.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import NamedTuple, NoReturn, Union

from nri_sync.text import quoted

__all__ = ["Pattern"]

# The limits of a pattern: its characters, its instructions with all repetitions expanded, and its levels of
# groups.
_PROGRAM_MAX, _DEPTH_MAX = 5_000, 50
# The greatest count of one repetition, as in RE2.
_REPEAT_MAX = 1000
# The size of the cache of transitions: the numbers of instructions in it, and 20 for each transition. A full
# cache is cleared.
_MEMORY = 100_000

_ALL = (("\0", "\U0010ffff"),)
_CLASSES = {
    "d": (("0", "9"),),
    "w": (("0", "9"), ("A", "Z"), ("_", "_"), ("a", "z")),
    "s": (("\t", "\n"), ("\f", "\r"), (" ", " ")),
}
_ESCAPES = {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_WORD = frozenset(string.ascii_letters + string.digits + "_")
_ASSERTIONS = {
    "^": "begin",
    "$": "end",
    "\\A": "begin",
    "\\z": "end",
    "\\b": "edge",
    "\\B": "inside",
}


class _Chars(NamedTuple):
    """One character, which must be in one of the ranges; if negated, in none of them."""

    ranges: tuple[tuple[str, str], ...]
    negated: bool = False
    ignore_case: bool = False

    def has(self, char: str) -> bool:
        forms = {char, char.lower(), char.upper()} if self.ignore_case else (char,)
        found = any(low <= form <= high for form in forms for low, high in self.ranges)
        return found is not self.negated


class _Assertion(NamedTuple):
    kind: str


class _Repeat(NamedTuple):
    node: _Node
    low: int
    high: int | None


class _Choice(NamedTuple):
    """Alternatives, each a sequence."""

    ways: list[list[_Node]]


_Node = Union[_Chars, _Assertion, _Repeat, _Choice]


class _Step(NamedTuple):
    """An instruction: continue at each of ``to``, after the condition ``needs`` holds, if there is one."""

    to: tuple[int, ...]
    needs: _Chars | _Assertion | None = None


class Pattern:
    """A regular expression whose search takes time linear in the text, for any pattern and text.

    The syntax: literals, ``.``, classes such as ``[a-z]`` and ``\\d \\w \\s`` (of ASCII), ``^ $ \\A \\z \\b \\B``,
    groups, ``|``, the repetitions ``* + ? {2} {2,} {2,5}``, and the flags ``(?i)`` and ``(?s)`` at the beginning.
    ``$`` matches only at the end of the text, and not before a last line feed. As in Go, references to groups and
    lookaround are errors. POSIX and Unicode classes and other flags, which Go supports, are errors, too.
    """

    def __init__(self, pattern: str) -> None:
        """Raises ValueError for a wrong or too large pattern; the error names the mistake and its position."""
        self.pattern = pattern
        if len(pattern) > _PROGRAM_MAX:
            self._fail_large()
        self._steps: list[_Step] = []
        # The last instruction, which means a match.
        self._steps.append(_Step(()))
        self._work = 0
        self._first = self._sequence([_Parser(pattern).parse()], 0)
        self._memory: dict[tuple[frozenset[int], object], frozenset[int]] = {}
        self._held = 0

    def __repr__(self) -> str:
        return f"Pattern({self.pattern!r})"

    def search(self, text: str) -> bool:
        """Return whether the pattern matches the text or a part of it."""
        at: frozenset[int] = frozenset()
        before = ""
        for after in (*text, ""):
            where = (not before, not after, (before in _WORD) is not (after in _WORD))
            reached = self._reached(at, where)
            if 0 in reached:
                return True
            at = self._after(reached, after)
            before = after
        return False

    def _reached(self, at: frozenset[int], where: tuple[bool, bool, bool]) -> frozenset[int]:
        """Return the instructions that wait for a character, reached from ``at`` and the start; 0 is a match."""
        known = self._memory.get((at, where))
        if known is not None:
            return known
        begin, end, edge = where
        holds = {"begin": begin, "end": end, "edge": edge, "inside": not edge}
        found, seen, left = set(), {*at, self._first}, [*at, self._first]
        while left:
            number = left.pop()
            needs = self._steps[number].needs
            if number == 0 or isinstance(needs, _Chars):
                found.add(number)
            elif needs is None or holds[needs.kind]:
                new = [to for to in self._steps[number].to if to not in seen]
                seen.update(new)
                left += new
        return self._remember(at, where, found)

    def _after(self, reached: frozenset[int], char: str) -> frozenset[int]:
        known = self._memory.get((reached, char))
        if known is not None:
            return known
        found: set[int] = set()
        for number in reached:
            needs = self._steps[number].needs
            if char and isinstance(needs, _Chars) and needs.has(char):
                found.update(self._steps[number].to)
        return self._remember(reached, char, found)

    def _remember(self, at: frozenset[int], what: object, found: set[int]) -> frozenset[int]:
        # Several threads may search at once: each dictionary operation is atomic, and every entry is correct.
        # An addition to _held may be lost, so that the cache is cleared a little later.
        self._held += len(at) + len(found) + 20
        if self._held > _MEMORY:
            self._memory, self._held = {}, 0
        result = self._memory[at, what] = frozenset(found)
        return result

    # Instructions are made from the end to the beginning, so that each one knows its successor.

    def _sequence(self, nodes: Sequence[_Node], then: int) -> int:
        for node in reversed(nodes):
            then = self._instruct(node, then)
        return then

    def _add(self, step: _Step) -> int:
        self._steps.append(step)
        return len(self._steps) - 1

    def _instruct(self, node: _Node, then: int) -> int:
        """Add the instructions for a node. Returns the first one."""
        self._work += 1
        if max(self._work, len(self._steps)) > _PROGRAM_MAX:
            self._fail_large()
        if isinstance(node, _Choice):
            return self._add(_Step(tuple(self._sequence(way, then) for way in node.ways)))
        if not isinstance(node, _Repeat):
            return self._add(_Step((then,), node))
        end = then
        if node.high is None:
            loop = self._add(_Step(()))
            self._steps[loop] = _Step((self._instruct(node.node, loop), then))
            then = loop
        else:
            for _ in range(node.high - node.low):
                then = self._add(_Step((self._instruct(node.node, then), end)))
        for _ in range(node.low):
            then = self._instruct(node.node, then)
        return then

    def _fail_large(self) -> NoReturn:
        raise ValueError(f"invalid pattern {quoted(self.pattern)}: it is too large")


class _Parser:
    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._place = 0
        self._depth = 0
        self._ignore_case = False
        self._any = _Chars((("\n", "\n"),), negated=True)

    def parse(self) -> _Node:
        self._flags()
        found = self._choice()
        if self._place < len(self._pattern):
            self._fail("there is no open group for this )")
        return found

    def _flags(self) -> None:
        end = self._pattern.find(")")
        flags = self._pattern[2:end]
        if self._pattern.startswith("(?") and flags and set(flags) <= {"i", "s"}:
            self._ignore_case = "i" in flags
            if "s" in flags:
                self._any = _Chars(_ALL)
            self._place = end + 1

    def _choice(self) -> _Choice:
        ways: list[list[_Node]] = [[]]
        while self._place < len(self._pattern) and self._peek() != ")":
            if self._takes("|"):
                ways.append([])
            else:
                ways[-1].append(self._repeated(self._item()))
        return _Choice(ways)

    def _item(self) -> _Node:
        if self._takes("("):
            return self._group()
        if self._takes("["):
            return self._class()
        if self._peek() in "*+?":
            self._fail("there is nothing to repeat")
        if self._takes("."):
            return self._any
        for text, kind in _ASSERTIONS.items():
            if self._takes(text):
                return _Assertion(kind)
        ranges, negated = self._char()
        return _Chars(ranges, negated, self._ignore_case)

    def _group(self) -> _Node:
        self._depth += 1
        if self._depth > _DEPTH_MAX:
            self._fail("groups are nested too deeply")
        if self._takes("?P<") or (
            self._pattern.startswith("?<", self._place)
            and self._pattern[self._place + 2 : self._place + 3] not in ("=", "!")
            and self._takes("?<")
        ):
            end = self._pattern.find(">", self._place)
            if not self._pattern[self._place : max(end, 0)].isidentifier():
                self._fail("the name of the group is not an identifier")
            self._place = end + 1
        elif not self._takes("?:") and self._peek() == "?":
            self._fail("this kind of group is not supported")
        found = self._choice()
        if not self._takes(")"):
            self._fail("the group has no closing )")
        self._depth -= 1
        return found

    def _repeated(self, node: _Node) -> _Node:
        found = self._repetition()
        if found is None:
            return node
        # "?" makes the repetition lazy, which makes no difference here.
        self._takes("?")
        if self._repetition() is not None:
            self._fail("a repetition is repeated")
        return _Repeat(node, *found)

    def _repetition(self) -> tuple[int, int | None] | None:
        for sign, low, high in (("*", 0, None), ("+", 1, None), ("?", 0, 1)):
            if self._takes(sign):
                return low, high
        end = self._pattern.find("}", self._place, self._place + 20)
        if self._peek() != "{" or end < 0:
            return None
        first, comma, last = self._pattern[self._place + 1 : end].partition(",")
        if not _is_number(first) or not (last == "" or _is_number(last)):
            return None  # a literal
        low, high = int(first), int(last or first) if last or not comma else None
        if max(low, high or 0) > _REPEAT_MAX or (high is not None and high < low):
            self._fail("the numbers of the repetition are wrong")
        self._place = end + 1
        return low, high

    def _class(self) -> _Chars:
        negated = self._takes("^")
        ranges: list[tuple[str, str]] = []
        while True:
            ranges += self._member()
            if self._takes("]"):
                return _Chars(tuple(ranges), negated, self._ignore_case)

    def _member(self) -> tuple[tuple[str, str], ...]:
        """Parse a character in a class, a range, or a class such as ``\\d``."""
        if self._pattern.startswith("[:", self._place):
            self._fail("POSIX classes are not supported")
        found, none_of = self._char()
        if none_of:
            self._fail("a negated class in a class is not supported")
        first, last = found[0]
        following = self._pattern[self._place + 1 : self._place + 2]
        if first != last or self._peek() != "-" or following in ("]", ""):
            return found
        self._place += 1
        low, high = self._char()[0][0]
        if low != high or low < first:
            self._fail("the range is wrong")
        return ((first, low),)

    def _char(self) -> tuple[tuple[tuple[str, str], ...], bool]:
        """Parse a literal or an escape. Returns its characters; True means all characters except these."""
        char = self._next()
        if char != "\\":
            return ((char, char),), False
        char = self._next()
        if char.lower() in _CLASSES:
            return _CLASSES[char.lower()], char.isupper()
        if char == "x":
            char = self._hexadecimal()
        elif char in _ESCAPES:
            char = _ESCAPES[char]
        elif char.isalnum():
            self._fail(f"the escape \\{char} is not supported")
        return ((char, char),), False

    def _hexadecimal(self) -> str:
        long = self._takes("{")
        end = self._pattern.find("}", self._place) if long else self._place + 2
        digits = self._pattern[self._place : max(end, 0)]
        if (
            not 1 <= len(digits) <= 6
            or set(digits) - set(string.hexdigits)
            or (not long and len(digits) < 2)
        ):
            self._fail("\\x has no hexadecimal digits")
        number = int(digits, 16)
        if number > 0x10FFFF:
            self._fail("there is no such character")
        self._place = end + long
        return chr(number)

    def _peek(self) -> str:
        return self._pattern[self._place : self._place + 1]

    def _next(self) -> str:
        if self._place >= len(self._pattern):
            self._fail("the pattern ends too early")
        self._place += 1
        return self._pattern[self._place - 1]

    def _takes(self, text: str) -> bool:
        if self._pattern.startswith(text, self._place):
            self._place += len(text)
            return True
        return False

    def _fail(self, problem: str) -> NoReturn:
        raise ValueError(
            f"invalid pattern {quoted(self._pattern)}, at character {self._place}: {problem}"
        )


def _is_number(text: str) -> bool:
    return 0 < len(text) <= 4 and text.isascii() and text.isdigit()
