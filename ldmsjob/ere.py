r"""POSIX extended regular expressions, as peers send them to choose channels.

Peers that run the C library have their expressions compiled by ``regcomp(REG_EXTENDED)`` and
searched, unanchored. Python's ``re`` reads several of the same characters differently, and lets one
expression take exponential time; peers' expressions must not. So they are compiled here into a
small automaton whose search takes at most (length of text) x (size of expression) steps.

Supported: alternation, groups, ``* + ? {n} {n,} {,m} {n,m}``, ``.``, brackets with ranges, negation
and ``[:classes:]``, ``^ $``, escaped special characters, and glibc's ``\w \W \s \S``. Refused with
``EreError``: back references, collating symbols, other escapes of letters and digits, and
expressions that grow beyond ``MAX_SIZE``.
"""

from __future__ import annotations

from collections.abc import Callable

MAX_SIZE = 500
"""Steps of an expression after its repeats are written out."""

MAX_REPEAT = 255
"""The largest number in braces, RE_DUP_MAX of POSIX."""

MAX_DEPTH = 20
"""Groups within groups."""

MAX_STACKED = 4
"""Repeats of a repeat, as in ``a*+``."""

Test = Callable[[str], bool]

_ASCII = [chr(code) for code in range(128)]
_CLASSES: dict[str, frozenset[str]] = {
    "alnum": frozenset(c for c in _ASCII if c.isalnum()),
    "alpha": frozenset(c for c in _ASCII if c.isalpha()),
    "blank": frozenset(" \t"),
    "cntrl": frozenset(c for c in _ASCII if ord(c) < 32 or ord(c) == 127),
    "digit": frozenset("0123456789"),
    "graph": frozenset(c for c in _ASCII if 32 < ord(c) < 127),
    "lower": frozenset(c for c in _ASCII if c.islower()),
    "print": frozenset(c for c in _ASCII if 32 <= ord(c) < 127),
    "punct": frozenset(c for c in _ASCII if 32 < ord(c) < 127 and not c.isalnum()),
    "space": frozenset(" \t\n\v\f\r"),
    "upper": frozenset(c for c in _ASCII if c.isupper()),
    "xdigit": frozenset("0123456789abcdefABCDEF"),
}
_WORD = _CLASSES["alnum"] | {"_"}
_SPACE = _CLASSES["space"]


class EreError(ValueError):
    """The expression is not one, or is larger than we accept. The text says where and why."""


class _State:
    """One step: eat a character that passes ``test``, or go on for free to ``out``.

    ``assertion`` ``^`` or ``$`` lets free steps pass only at the start or the end of the text.
    """

    __slots__ = ("assertion", "number", "out", "test")

    def __init__(self, number: int) -> None:
        self.number = number
        self.test: Test | None = None
        self.assertion = ""
        self.out: list[_State] = []


# A parsed expression is a function that builds its states in front of a given next state, so that
# a repeat can build its inside several times.
_Builder = Callable[["_State"], "_State"]


class Ere:
    """A compiled expression. Safe to keep and to use any number of times."""

    __slots__ = ("_final", "_start", "pattern", "size")

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        parser = _Parser(pattern)
        build = parser.expression()
        self._final = parser.state()
        self._start = build(self._final)
        self.size = parser.size
        """What a search costs per character of the text, in steps; at most ``MAX_SIZE``."""

    def search(self, text: str) -> bool:
        """Whether the expression matches anywhere in ``text``."""
        final = self._final
        last = len(text)
        current: dict[int, _State] = {}
        for position in range(last + 1):
            # Unanchored: a match may begin at every position.
            current = _closure([*current.values(), self._start], position == 0, position == last)
            if final.number in current:
                return True
            if position == last:
                break
            character = text[position]
            following: dict[int, _State] = {}
            for state in current.values():
                if state.test is not None and state.test(character):
                    following[state.out[0].number] = state.out[0]
            current = following
        return False


def _closure(states: list[_State], at_start: bool, at_end: bool) -> dict[int, _State]:
    """All states that can be reached without eating a character."""
    reached: dict[int, _State] = {}
    pending = states
    while pending:
        state = pending.pop()
        if state.number in reached:
            continue
        if state.assertion == "^" and not at_start:
            continue
        if state.assertion == "$" and not at_end:
            continue
        reached[state.number] = state
        if state.test is None:
            pending.extend(state.out)
    return reached


class _Parser:
    """Reads an expression by recursive descent and hands out states."""

    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._at = 0
        self._depth = 0
        self.size = 0

    def state(self) -> _State:
        """A new state, within the size limit."""
        self._grow()
        return _State(self.size)

    def _grow(self) -> None:
        """Count one step. Repeats count themselves too: what they repeat may have no states."""
        self.size += 1
        if self.size > MAX_SIZE:
            raise EreError("the expression is too large")

    def expression(self) -> _Builder:
        """The whole text as one expression."""
        return self._alternatives()

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _alternatives(self) -> _Builder:
        branches = [self._branch()]
        while self._peek() == "|":
            self._at += 1
            branches.append(self._branch())
        if len(branches) == 1:
            return branches[0]

        def build(following: _State) -> _State:
            fork = self.state()
            fork.out = [branch(following) for branch in branches]
            return fork

        return build

    def _branch(self) -> _Builder:
        parts: list[_Builder] = []
        repeatable = False
        while (character := self._peek()) and character != "|":
            if character == ")" and self._depth:
                break
            if character in "*+?{" and not repeatable:
                raise EreError(f"nothing to repeat at {self._at}")
            repeatable = character not in "^$"
            atom = self._atom()
            parts.append(self._repeats(atom) if repeatable else atom)

        def build(following: _State) -> _State:
            for part in reversed(parts):
                following = part(following)
            return following

        return build

    def _repeats(self, atom: _Builder) -> _Builder:
        stacked = 0
        while (character := self._peek()) and character in "*+?{":
            stacked += 1
            if stacked > MAX_STACKED:
                raise EreError("too many repeats of a repeat")
            self._at += 1
            if character == "*":
                atom = self._repeated(atom, 0, None)
            elif character == "+":
                atom = self._repeated(atom, 1, None)
            elif character == "?":
                atom = self._repeated(atom, 0, 1)
            else:
                atom = self._repeated(atom, *self._bounds())
        return atom

    def _bounds(self) -> tuple[int, int | None]:
        close = self._text.find("}", self._at)
        inside = self._text[self._at : close] if close >= 0 else ""
        low_text, comma, high_text = inside.partition(",")
        numbers = [text for text in (low_text, high_text) if text]
        if not numbers or not all(map(_is_number, numbers)) or not (low_text or comma):
            raise EreError(f"bad repeat at {self._at}")
        low = int(low_text or 0)
        high = low if not comma else int(high_text) if high_text else None
        if max(low, high or 0) > MAX_REPEAT or (high is not None and high < low):
            raise EreError(f"bad repeat at {self._at}")
        self._at = close + 1
        return low, high

    def _repeated(self, atom: _Builder, low: int, high: int | None) -> _Builder:
        def build(following: _State) -> _State:
            if high is None:
                loop = self.state()
                loop.out = [following]
                loop.out.append(atom(loop))
                following = loop
            else:
                after = following
                for _ in range(high - low):
                    self._grow()
                    skip = self.state()
                    skip.out = [after, atom(following)]
                    following = skip
            for _ in range(low):
                self._grow()
                following = atom(following)
            return following

        return build

    def _atom(self) -> _Builder:
        character = self._text[self._at]
        self._at += 1
        if character == "(":
            return self._group()
        if character == "[":
            return self._eats(self._bracket())
        if character == ".":
            return self._eats(_any)
        if character in "^$":
            return self._asserts(character)
        if character == "\\":
            return self._eats(self._escape())
        return self._eats(character.__eq__)

    def _group(self) -> _Builder:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise EreError("groups are nested too deeply")
        build = self._alternatives()
        if self._peek() != ")":
            raise EreError("unmatched (")
        self._at += 1
        self._depth -= 1
        return build

    def _escape(self) -> Test:
        character = self._peek()
        self._at += 1
        if not character:
            raise EreError("trailing backslash")
        if character == "w":
            return _WORD.__contains__
        if character == "W":
            return lambda c: c not in _WORD
        if character == "s":
            return _SPACE.__contains__
        if character == "S":
            return lambda c: c not in _SPACE
        if character.isalnum() or character in "<>`'":
            raise EreError(f"\\{character} is not supported")
        return character.__eq__

    def _bracket(self) -> Test:
        negated = self._peek() == "^"
        if negated:
            self._at += 1
        singles: set[str] = set()
        ranges: list[tuple[str, str]] = []
        first = True
        while True:
            character = self._peek()
            if not character:
                raise EreError("unmatched [")
            if character == "]" and not first:
                self._at += 1
                break
            first = False
            if self._text.startswith("[:", self._at):
                singles |= self._character_class()
                continue
            low = self._bracket_character()
            following = self._text[self._at : self._at + 2]
            if following[:1] == "-" and following[1:] not in ("", "]"):
                self._at += 1
                high = self._bracket_character()
                if high < low:
                    raise EreError("range out of order")
                ranges.append((low, high))
            else:
                singles.add(low)
        chosen = frozenset(singles)

        def test(character: str) -> bool:
            inside = character in chosen or any(low <= character <= high for low, high in ranges)
            return inside is not negated

        return test

    def _bracket_character(self) -> str:
        if self._text[self._at : self._at + 2] in ("[.", "[=", "[:"):
            raise EreError("collating symbols are not supported")
        self._at += 1
        return self._text[self._at - 1]

    def _character_class(self) -> frozenset[str]:
        close = self._text.find(":]", self._at + 2)
        name = self._text[self._at + 2 : close] if close >= 0 else ""
        if name not in _CLASSES:
            raise EreError(f"no character class at {self._at}")
        self._at = close + 2
        return _CLASSES[name]

    def _eats(self, test: Test) -> _Builder:
        def build(following: _State) -> _State:
            state = self.state()
            state.test = test
            state.out = [following]
            return state

        return build

    def _asserts(self, assertion: str) -> _Builder:
        def build(following: _State) -> _State:
            state = self.state()
            state.assertion = assertion
            state.out = [following]
            return state

        return build


def _any(character: str) -> bool:
    return True


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 4
