"""The configuration language of ldmsd: text to commands, and values to numbers.

A file is a sequence of commands, one a line: a verb, then attributes ``name=value`` and keywords
(names without ``=``), separated by blanks or tabs. ``#`` at the start of a line or behind white
space begins a comment. A line that ends in a backslash goes on in the next one; a comment line in
between is skipped, an empty line ends the command. A value in double quotes may hold white space
and ``#``; its closing quote is the first one that white space or the end follows, so that
``"a"b"`` is ``a"b``. ``${NAME}`` in a value stands for an environment variable; an unset one is
empty.

The C daemon differs in these: there quotes do not protect white space, a tab behind the verb is
part of it, any empty or comment line ends a continued command, and the second of two equal
attributes is dropped in silence (here it is an error).

This module reads no file and knows no verb.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from ldmsjob.errors import ConfigError

_WHITE = " \t\r\v\f"
_SPLIT = re.compile(r"[ \t\r\v\f]+")
_TOKEN = re.compile(r"[^ \t\r\v\f]+")
_CLOSING_QUOTE = re.compile(r'"(?=[ \t\r\v\f]|\\?[ \t\r\v\f]*$)')
_OPENING_QUOTE = re.compile(r'(?:^|(?<=[ \t\r\v\f]))[^ \t\r\v\f="]+="')
_COMMENT = re.compile(r"(?:^|(?<=[ \t\r\v\f]))#")
_REFERENCE = r"\$\{([A-Za-z0-9_]+)\}"

MAX_REFERENCES = 100
"""References to environment variables that one value may hold."""


class Command(msgspec.Struct, frozen=True):
    """One command as it was written; values are not expanded yet."""

    verb: str
    attributes: tuple[tuple[str, str | None], ...]
    """Names and values in the order given; None is the value of a keyword."""
    text: str
    """Everything behind the verb, as written."""
    file: str
    line: int
    """The line on which the command begins; 0 when it did not come from a file."""
    fault: str = ""
    """Why the attributes could not be read. Commands that take their text whole ignore it."""

    @property
    def where(self) -> str:
        """``file:line``, or the file's name alone when there is no line."""
        return f"{self.file}:{self.line}" if self.line else self.file


def parse(text: str, file: str) -> Iterator[Command]:
    """The commands of a configuration file's text. ``file`` is its name for messages.

    Never raises: a command whose attributes cannot be read carries the reason in ``fault``.
    """
    pieces: list[str] = []
    first_line = 0
    quoted = False
    for number, line in enumerate(text.split("\n"), 1):
        piece, quoted = _without_comment(line, quoted if pieces else False)
        piece = piece.strip(_WHITE)
        if pieces and not piece and line.strip(_WHITE):
            continue
        if not pieces:
            first_line = number
        if piece.endswith("\\"):
            pieces.append(piece[:-1])
            continue
        pieces.append(piece)
        yield from _command(" ".join(pieces), file, first_line)
        pieces = []
    if pieces:
        yield from _command(" ".join(pieces), file, first_line)


def command(verb: str, attributes: Mapping[str, str | None], where: str) -> Command:
    """A command that no file holds, e.g. one from the command line. ``where`` is for messages."""
    return Command(verb, tuple(attributes.items()), "", where, 0)


def _without_comment(line: str, quoted: bool) -> tuple[str, bool]:
    """The line up to its comment, and whether a quote is open at its end."""
    position = 0
    # Looked for again only behind what was found: a line may have very many values.
    comment = _COMMENT.search(line)
    while True:
        if quoted:
            closing = _CLOSING_QUOTE.search(line, position)
            if closing is None:
                return line, True
            position = closing.end()
            quoted = False
        if comment is not None and comment.start() < position:
            comment = _COMMENT.search(line, position)
        opening = _OPENING_QUOTE.search(line, position)
        if opening is not None and (comment is None or opening.start() < comment.start()):
            position = opening.end()
            quoted = True
            continue
        return (line, False) if comment is None else (line[: comment.start()], False)


def _command(line: str, file: str, number: int) -> Iterator[Command]:
    line = line.strip(_WHITE)
    if not line:
        return
    verb, *rest = _SPLIT.split(line, maxsplit=1)
    text = rest[0] if rest else ""
    try:
        yield Command(verb, tuple(_attributes(text)), text, file, number)
    except ConfigError as error:
        yield Command(verb, (), text, file, number, str(error))


def _attributes(text: str) -> Iterator[tuple[str, str | None]]:
    seen: dict[str, str | None] = {}
    position = 0
    while True:
        while position < len(text) and text[position] in _WHITE:
            position += 1
        if position >= len(text):
            return
        opening = _OPENING_QUOTE.match(text, position)
        if opening is not None:
            name = text[position : opening.end() - 2]
            closing = _CLOSING_QUOTE.search(text, opening.end())
            if closing is None:
                raise ConfigError(
                    f"the quote behind '{name}=' is not closed",
                    hint="put another one at the end of the value",
                )
            value: str | None = text[opening.end() : closing.start()]
            position = closing.end()
        else:
            token = _TOKEN.match(text, position)[0]  # type: ignore[index]
            position += len(token)
            name, equals, rest = token.partition("=")
            value = rest if equals else None
            if not name:
                raise ConfigError(f"'{token}' has no name in front of its '='")
        if name in seen:
            first, second = _shown(name, seen[name]), _shown(name, value)
            raise ConfigError(
                f"attribute '{name}' is given twice: {first} and {second}", hint="remove one"
            )
        seen[name] = value
        yield name, value


def _shown(name: str, value: str | None) -> str:
    return name if value is None else f"{name}={value}"


def expand(value: str, environ: Mapping[str, str]) -> tuple[str, list[str]]:
    """``value`` with its ``${NAME}`` replaced, and the names that are not set.

    Raises ``ConfigError`` when it holds more than ``MAX_REFERENCES``. What was put in is not
    looked at again.
    """
    if "${" not in value:
        return value, []
    unset = []
    count = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal count
        count += 1
        name = match[1]
        if name not in environ:
            unset.append(name)
        return environ.get(name, "")

    result = re.sub(_REFERENCE, replace, value)
    if count > MAX_REFERENCES:
        raise ConfigError(f"a value refers to {count} variables, at most {MAX_REFERENCES} may be")
    return result, unset


def nearest(word: str, known: Iterable[str]) -> str:
    """``did you mean 'x'?`` for the known word nearest to this one, or ``""``."""
    words = difflib.get_close_matches(word, list(known), 3, 0.6)
    if not words:
        return ""
    swapped = [one for one in words if sorted(one) == sorted(word)]
    return f"did you mean '{(swapped or words)[0]}'?"


# --------------------------------------------------------------------------------------------
# Values


_TIME = r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))[ \t]*([A-Za-z]*)"
_SIZE = r"([0-9]+(?:\.[0-9]+)?)([bkmgt]?)b?"
_MAX_DIGITS = 64
_MAX_NUMBER = 1 << 62
"""Beyond it are no times or sizes, and nothing that a database or a clock could take."""
_MICROSECONDS = (
    ("us", 1),
    ("ms", 1_000),
    ("s", 1_000_000),
    ("m", 60_000_000),
    ("h", 3_600_000_000),
    ("d", 86_400_000_000),
)
_UNIT_WORDS = {
    "us": ("us", "microsecond", "microseconds", "usec", "usecs"),
    "ms": ("ms", "millisecond", "milliseconds", "msec", "msecs"),
    "s": ("s", "sec", "secs", "second", "seconds"),
    "m": ("m", "min", "mins", "minute", "minutes"),
    "h": ("h", "hour", "hours"),
    "d": ("d", "day", "days"),
}
_UNITS = {word: factor for unit, factor in _MICROSECONDS for word in _UNIT_WORDS[unit]}
_SIZES = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_TRUE = frozenset(("true", "yes", "on", "1", "t", "y"))
_FALSE = frozenset(("false", "no", "off", "0", "f", "n"))


def parse_integer(
    name: str, text: str, minimum: int | None = None, maximum: int | None = None
) -> int:
    """A decimal number. ``name`` is the attribute, for the message of the ``ConfigError``."""
    value = int(text) if re.fullmatch(r"[+-]?[0-9]{1,20}", text) else None
    if (
        value is None
        or (minimum is not None and value < minimum)
        or (maximum is not None and value > maximum)
    ):
        hint = "it must be a whole number"
        if maximum is not None:
            hint += f" from {minimum} to {maximum}"
        elif minimum is not None:
            hint += f" of at least {minimum}"
        raise ConfigError(f"{name} '{text}' invalid", hint=hint)
    return value


def parse_time(name: str, text: str, unit: str = "us") -> int:
    """A time in microseconds. ``unit`` is what a number without one has."""
    match = re.fullmatch(_TIME, text) if len(text) <= _MAX_DIGITS else None
    factor = _UNITS.get(match[2] or unit) if match else None
    if match is None or factor is None or abs(float(match[1]) * factor) > _MAX_NUMBER:
        raise ConfigError(
            f"{name} '{text}' invalid",
            hint="it must be a number, and its unit one of us, ms, s, m, h, d",
        )
    return round(float(match[1]) * factor)


def parse_size(name: str, text: str) -> int:
    """A memory size in bytes."""
    match = re.fullmatch(_SIZE, text.lower()) if len(text) <= _MAX_DIGITS else None
    if match is None or float(match[1]) * _SIZES[match[2]] > _MAX_NUMBER:
        raise ConfigError(
            f"{name} '{text}' invalid",
            hint="it must be a number, and its unit one of B, k, M, G, T",
        )
    return round(float(match[1]) * _SIZES[match[2]])


def parse_boolean(name: str, text: str) -> bool:
    """``true/yes/on/1`` or ``false/no/off/0`` in any case."""
    word = text.lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ConfigError(f"{name} '{text}' invalid", hint="it must be true or false")


def parse_octal(name: str, text: str) -> int:
    """A permission, at most 0777."""
    if re.fullmatch(r"0?[0-7]{1,3}", text) is None:
        raise ConfigError(
            f"{name} '{text}' invalid", hint="it must be an octal permission such as 0640"
        )
    return int(text, 8)
