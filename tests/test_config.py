"""The configuration language."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.config import (
    command,
    expand,
    nearest,
    parse,
    parse_boolean,
    parse_integer,
    parse_octal,
    parse_size,
    parse_time,
)
from ldmsjob.errors import ConfigError


def parsed(text):
    """(line, verb, attributes) of each command."""
    return [(c.line, c.verb, dict(c.attributes)) for c in parse(text, "f")]


class ParseTests(SynchronousTestCase):
    """Text to commands."""

    def test_verb_attributes_and_keywords(self):
        """Blanks and tabs separate, the first = ends a name, a name alone is a keyword."""
        self.assertEqual(
            parsed("load\tname=a  plugin=b=c \t reset\r\n"),
            [(1, "load", {"name": "a", "plugin": "b=c", "reset": None})],
        )

    def test_comments(self):
        """# begins a comment at the start and behind white space, nowhere else."""
        self.assertEqual(
            parsed("# x\n  # y\nenv A=#1 B=a#b # c\n"),
            [(3, "env", {"A": "#1", "B": "a#b"})],
        )

    def test_quotes_protect_blanks_and_comment_signs(self):
        """A quoted value is one value."""
        self.assertEqual(
            parsed('env A="a b" B="x # y" C="" # "z"\n'),
            [(1, "env", {"A": "a b", "B": "x # y", "C": ""})],
        )

    def test_quotes_as_the_c_daemon_takes_them(self):
        """Only a quote that begins a value means something, and only at its end."""
        self.assertEqual(
            parsed('env A="abc" B=a"b C="a"b" D=\'a\n'),
            [(1, "env", {"A": "abc", "B": 'a"b', "C": 'a"b', "D": "'a"})],
        )

    def test_open_quote(self):
        """A quote that never ends is a fault of that command alone."""
        first, second = parse('load name="a b\nload name=c\n', "f")
        self.assertIn("'name=' is not closed", first.fault)
        self.assertEqual(second.fault, "")

    def test_attribute_given_twice(self):
        """Is a fault that shows both."""
        (one,) = parse("listen port=1 port=2", "f")
        self.assertEqual(
            one.fault, "attribute 'port' is given twice: port=1 and port=2; remove one"
        )

    def test_value_without_name(self):
        """Is a fault."""
        (one,) = parse("listen =2", "f")
        self.assertIn("'=2' has no name", one.fault)

    def test_continuation(self):
        """A backslash goes on; comment lines between do not matter; the first line counts."""
        self.assertEqual(
            parsed("\nload \\\n   name=a \\ # this\n  # and this\nplugin=b\nterm name=a"),
            [(2, "load", {"name": "a", "plugin": "b"}), (6, "term", {"name": "a"})],
        )

    def test_empty_line_ends_a_continuation(self):
        """What follows is a new command; the end of the file ends it, too."""
        self.assertEqual(
            parsed("load \\\n\nname=a\nload \\"),
            [(1, "load", {}), (3, "name=a", {}), (4, "load", {})],
        )

    def test_quote_over_a_continuation(self):
        """A quote may go on in the next line; # in there is no comment."""
        self.assertEqual(parsed('env A="a \\\n b # c" # d\n'), [(1, "env", {"A": "a  b # c"})])

    def test_bytes_that_are_not_utf8(self):
        """Stay what they are."""
        text = b"env A=\xff\xe9\n".decode("utf-8", "surrogateescape")
        ((_, _, attributes),) = parsed(text)
        self.assertEqual(attributes["A"].encode("utf-8", "surrogateescape"), b"\xff\xe9")

    def test_where(self):
        """file:line for a command of a file, else the words that name its place."""
        self.assertEqual(next(parse("\n\nx", "a.conf")).where, "a.conf:3")
        self.assertEqual(command("x", {}, "option -x").where, "option -x")

    @given(st.text())
    def test_any_text(self, text):
        """No text raises; verbs are never empty."""
        for one in parse(text, "f"):
            self.assertTrue(one.verb)

    @given(st.text(alphabet='ab "#\\=\t', max_size=30))
    def test_any_mixture_of_signs(self, text):
        """Nor does any mixture of what has a meaning."""
        for one in parse(text + "\n" + text, "f"):
            self.assertNotIn(" ", one.verb)


class ExpandTests(SynchronousTestCase):
    """References to the environment."""

    def test_references(self):
        """Are replaced once, whatever they hold; unset ones are empty and named."""
        environ = {"A": "x ${B}", "B": "y"}
        self.assertEqual(expand("1${A}2${C}3$B${-}", environ), ("1x ${B}23$B${-}", ["C"]))

    def test_too_many(self):
        """A value may hold 100."""
        self.assertEqual(expand("${A}" * 100, {"A": "1"})[0], "1" * 100)
        self.assertRaises(ConfigError, expand, "${A}" * 101, {"A": "1"})


class ValueTests(SynchronousTestCase):
    """Text to numbers."""

    def test_times(self):
        """Units, fractions, long spellings; microseconds where nothing is said."""
        for text, expected in (
            ("1000000", 1_000_000),
            ("1.5s", 1_500_000),
            ("2 ms", 2_000),
            ("3minutes", 180_000_000),
            ("-1s", -1_000_000),
            ("1h", 3_600_000_000),
            (".5d", 43_200_000_000),
        ):
            self.assertEqual(parse_time("interval", text), expected, text)
        self.assertEqual(parse_time("linger", "10", "s"), 10_000_000)

    def test_bad_times(self):
        """Are refused with the attribute's name."""
        for text in ("", "abc", "1x", "1 2", "s", "1e3", "nan", "9" * 400, "9" * 15 + "d"):
            error = self.assertRaises(ConfigError, parse_time, "interval", text)
            self.assertEqual(error.message, f"interval '{text}' invalid")

    def test_integers(self):
        """Have limits that the hint names."""
        self.assertEqual(parse_integer("port", "411", 1, 65535), 411)
        for text in ("0", "65536", "", "4x", "9" * 30, "4.1"):
            self.assertRaises(ConfigError, parse_integer, "port", text, 1, 65535)
        error = self.assertRaises(ConfigError, parse_integer, "quota", "-2", -1)
        self.assertEqual(error.hint, "it must be a whole number of at least -1")

    def test_sizes(self):
        """Units are powers of 1024; t is a terabyte."""
        self.assertEqual(parse_size("size", "512kB"), 512 << 10)
        self.assertEqual(parse_size("size", "1T"), 1 << 40)
        for text in ("1x", "9" * 400, "9" * 15 + "T"):
            self.assertRaises(ConfigError, parse_size, "size", text)

    def test_booleans(self):
        """In any case."""
        self.assertIs(parse_boolean("steps", "True"), True)
        self.assertIs(parse_boolean("steps", "off"), False)
        self.assertRaises(ConfigError, parse_boolean, "steps", "maybe")

    def test_permissions(self):
        """Are octal, with or without a zero in front."""
        self.assertEqual(parse_octal("perm", "0640"), 0o640)
        self.assertEqual(parse_octal("perm", "440"), 0o440)
        for text in ("0888", "rw", "", "01777"):
            self.assertRaises(ConfigError, parse_octal, "perm", text)

    def test_nearest(self):
        """The nearest known word, or nothing when none is near."""
        self.assertEqual(nearest("intervall", ["interval", "offset"]), "did you mean 'interval'?")
        self.assertEqual(nearest("zzz", ["interval"]), "")

    def test_nearest_by_swapped_letters(self):
        """Of several that are as near, the one with the same letters."""
        self.assertEqual(nearest("prot", ["xprt", "port"]), "did you mean 'port'?")
