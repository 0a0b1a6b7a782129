"""POSIX extended regular expressions."""

from __future__ import annotations

import ctypes
import sys

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from ldmsjob.ere import MAX_SIZE, Ere, EreError

REG_EXTENDED, REG_NOSUB = 1, 8

TEXTS = ("", "a", "ab", "b", "ba", "aab", "abab", "a-b", "]", "1", "a1_", "{", "^", "$", "a)", "-")

PIECES = (
    *("a", "b", "(a", "b)", "(ab|b)", "a*", "b+", "a?", "b{1}", "a{0,2}", "b{2,}", "-"),
    *("[ab]", "[^a]", "[]a]", "[a-c]", "[[:digit:]]", "[a-]", "^", "$", ".", "\\."),
    *("\\w", "|"),
)


def search_with_libc(pattern: str) -> list[bool] | None:
    """What the C library makes of it: a result per text of ``TEXTS``, None for a bad pattern."""
    libc = ctypes.CDLL(None)
    compiled = ctypes.create_string_buffer(256)
    if libc.regcomp(compiled, pattern.encode(), REG_EXTENDED | REG_NOSUB):
        return None
    results = [libc.regexec(compiled, text.encode(), 0, None, 0) == 0 for text in TEXTS]
    libc.regfree(compiled)
    return results


class EreTests(SynchronousTestCase):
    """``Ere``."""

    def test_table(self) -> None:
        """Expressions that people write, and texts that they do and do not find."""
        for pattern, found, missed in (
            ("slurm", ("slurm", "xslurmx"), ("slur", "")),
            ("^slurm$", ("slurm",), ("slurm2", "xslurm")),
            (".*", ("", "anything"), ()),
            ("re.*", ("re", "core"), ("er",)),
            ("^(slurm|flux)$", ("slurm", "flux"), ("slurmflux",)),
            ("node[0-9]{2,3}$", ("node12", "node123"), ("node1", "node")),
            ("^a{0}b", ("b",), ("ab",)),
            ("[[:alpha:]_]+[^a-z]", ("ab1", "__"), ("ab", "1")),
            ("[]x]", ("]", "x"), ("y",)),
            (r"a\.b", ("a.b",), ("axb",)),
            (r"[\.]", (".",), ("a",)),
            (r"^\w+$", ("a_1",), ("a-1",)),
            (r"\s", ("a b",), ("ab",)),
            ("a|", ("", "b"), ()),
            ("()", ("",), ()),
            ("é", ("café",), ("cafe",)),
        ):
            expression = Ere(pattern)
            for text in found:
                self.assertTrue(expression.search(text), (pattern, text))
            for text in missed:
                self.assertFalse(expression.search(text), (pattern, text))

    def test_bad_expressions_are_refused(self) -> None:
        """What is no expression, or one that is not supported, is an ``EreError`` with a reason."""
        for pattern in (
            "(",
            "[",
            "[a",
            "*a",
            "+",
            "\\",
            "[z-a]",
            "[[:nothing:]]",
            "(a)\\1",
            "a{2,1}",
        ):
            error = self.assertRaises(EreError, Ere, pattern)
            self.assertTrue(str(error), pattern)

    def test_size_is_limited(self) -> None:
        """Expressions that are long, or explode when written out, are refused."""
        for pattern in ("a" * (MAX_SIZE + 1), "((a{250}){250}){250}", "(" * 5000):
            self.assertRaises(EreError, Ere, pattern)
        self.assertEqual(Ere("a" * MAX_SIZE).size, MAX_SIZE)

    def test_takes_paths_of_c_programs(self) -> None:
        """C programs look up paths of up to 511 bytes."""
        self.assertTrue(Ere("a" * 511).search("a" * 511))

    def test_compiling_is_bounded(self) -> None:
        """Expressions whose repeats take long to write out are refused, and no others."""
        for pattern in ("[[:alpha:]]{1,1000}", "(a|b|c){1,1000}", "((a?){30}){30}"):
            self.assertRaises(EreError, Ere, pattern)
        for pattern in ("[[:alpha:]]{1,100}", "[[:alnum:]_.-]{1,64}/[[:alnum:]_.-]{1,64}"):
            Ere(pattern)
        Ere("|".join(f"node{number:04}" for number in range(0, 400, 8)))

    def test_search_takes_no_exponential_time(self) -> None:
        """Expressions that take other engines for ever are searched like any other."""
        for pattern in ("(a+)+$", "(a|a)*b", "a*a*a*a*a*a*a*a*a*c"):
            self.assertFalse(Ere(pattern).search("a" * 200 + "!"), pattern)

    @given(
        st.text(alphabet="ab()|*+?{}[]^$.\\,0123-:w \udcff", max_size=30),
        st.text(alphabet=st.characters(blacklist_categories=("Cs",)), max_size=20),
    )
    def test_any_text_is_an_expression_or_an_error(self, pattern: str, text: str) -> None:
        """Whatever a peer sends, there is no other exception than ``EreError``."""
        try:
            expression = Ere(pattern)
        except EreError:
            return
        expression.search(text)

    @given(st.lists(st.sampled_from(PIECES), max_size=7).map("".join))
    def test_agrees_with_the_c_library(self, pattern: str) -> None:
        """Expressions that both accept find the same as with glibc's ``regcomp``."""
        if not sys.platform.startswith("linux"):
            raise SkipTest("compares with glibc")
        try:
            expression = Ere(pattern)
        except EreError:
            return
        expected = search_with_libc(pattern)
        if expected is not None:
            self.assertEqual([expression.search(text) for text in TEXTS], expected)
