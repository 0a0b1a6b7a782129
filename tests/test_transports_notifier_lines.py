"""The notifier's lines: cut, known again, made into messages."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.errors import PublishError
from ldmsjob.transports.notifier_lines import WINDOW, LineBook, LineCutter, MessageMaker
from ldmsjob.wire.events import JSON, Credential, Forward, Message
from ldmsjob.wire.msg import hash_of_channel, hash_of_message
from tests.linkpair import NOW, LinkPair
from tests.notifiers import line


class LineCutterTests(SynchronousTestCase):
    """Bytes to lines."""

    def test_lines(self) -> None:
        """Whole lines come out without newlines; the rest waits for its own."""
        cutter = LineCutter()
        self.assertEqual(cutter.feed(b"a\nbc\nd"), [b"a", b"bc"])
        self.assertTrue(cutter.unfinished)
        self.assertEqual(cutter.feed(b"e"), [])
        self.assertEqual(cutter.feed(b"\n\n"), [b"de", b""])
        self.assertFalse(cutter.unfinished)

    def test_too_long(self) -> None:
        """A line of more than the limit is left out and counted once; those around it come."""
        cutter = LineCutter(4)
        self.assertEqual(cutter.feed(b"abcd\nabcde\nx\nabc"), [b"abcd", b"x"])
        self.assertEqual(cutter.too_long, 1)
        self.assertEqual(cutter.feed(b"de"), [])
        self.assertEqual(cutter.feed(b"fghijklmn"), [])
        self.assertEqual(cutter.feed(b"o\ny\n"), [b"y"])
        self.assertEqual(cutter.too_long, 2)

    @given(
        st.lists(st.binary(max_size=9).map(lambda text: text.replace(b"\n", b"")), max_size=8),
        st.lists(st.integers(1, 9), min_size=1, max_size=30),
    )
    def test_any_cutting(self, lines: list[bytes], sizes: list[int]) -> None:
        """However the stream is cut, the same lines come out."""
        stream = b"".join(one + b"\n" for one in lines) + b"rest"
        cutter, got, at = LineCutter(6), [], 0
        for index in range(len(stream)):
            size = sizes[index % len(sizes)]
            got += cutter.feed(stream[at : at + size])
            at += size
        self.assertEqual(got, [one for one in lines if len(one) <= 6])
        self.assertEqual(cutter.too_long, sum(len(one) > 6 for one in lines))
        self.assertTrue(cutter.unfinished)


class LineBookTests(SynchronousTestCase):
    """Each line once."""

    def test_repeated(self) -> None:
        """A line that came before is answered, and not new."""
        book = LineBook()
        first = book.take([line(1), line(2)], 0.0)
        self.assertEqual((first.fresh, first.answers), ([line(1), line(2)], b"++"))
        again = book.take([line(2), line(3), line(3)], 0.0)
        self.assertEqual((again.fresh, again.repeated, again.answers), ([line(3)], 2, b"+++"))

    def test_processes(self) -> None:
        """Boot, pid and start time together say which process it is."""
        lines = [line(), line(pid=101), line(start=1), line(boot="another")]
        self.assertEqual(LineBook().take(lines, 0.0).fresh, lines)

    def test_refused(self) -> None:
        """What does not begin with a valid identity is answered with a minus, and counted by
        reason."""
        wrong = {
            b"": "syntax",
            b"{": "syntax",
            b"\xff": "syntax",
            b"[]": "identity",
            b"{}": "identity",
            b'{"notifier":{"boot":"b","pid":1,"start":2}}': "identity",
            b'{"notifier":{"boot":"b","pid":1,"start":2,"seq":0}}': "identity",
            b'{"notifier":{"boot":"b","pid":"1","start":2,"seq":1}}': "identity",
            b'{"notifier":{"boot":"","pid":1,"start":2,"seq":1}}': "identity",
            line() + b"}": "syntax",
            # Deeper than any Python follows; a line may not be as long.
            b'{"x":' + b"[" * 100_000: "nesting",
        }
        for text, reason in wrong.items():
            batch = LineBook().take([line(1), text, line(2)], 0.0)
            self.assertEqual((batch.answers, batch.refused), (b"+-+", {reason: 1}), text)
            self.assertEqual(batch.fresh, [line(1), line(2)])

    def test_mend(self) -> None:
        """In a spool empty lines are nothing, and a line behind a torn one is found."""
        torn = line(1)[:30] + line(2, text='{"notifier":{"')
        batch = LineBook().take([b"", torn, b"rubbish"], 0.0, mend=True)
        self.assertEqual(batch.fresh, [line(2, text='{"notifier":{"')])
        self.assertEqual(batch.refused, {"torn": 1, "syntax": 1})

    def test_late(self) -> None:
        """A line may come behind later ones of its process; what is much older counts as come."""
        book = LineBook()
        self.assertEqual(len(book.take([line(WINDOW + 10), line(11), line(11)], 0.0).fresh), 2)
        self.assertEqual(book.take([line(10), line(WINDOW + 10)], 0.0).repeated, 2)
        self.assertEqual(len(book.take([line(10 * WINDOW)], 0.0).fresh), 1)
        self.assertEqual(book.take([line(WINDOW + 11)], 0.0).repeated, 1)

    def test_forget(self) -> None:
        """Lines of which nothing came may come again; those before them may not."""
        book = LineBook()
        book.take([line(1)], 0.0)
        book.forget(book.take([line(1), line(2), line(3)], 0.0))
        again = book.take([line(3), line(2), line(1)], 0.0)
        self.assertEqual((again.fresh, again.repeated), ([line(3), line(2)], 1))

    def test_forget_a_leap(self) -> None:
        """However far apart the numbers of a batch are: the older one is too old to come again."""
        book = LineBook()
        book.forget(book.take([line(1), line(2**63 - 1)], 0.0))
        again = book.take([line(2**63 - 1), line(1)], 0.0)
        self.assertEqual((again.fresh, again.repeated), ([line(2**63 - 1)], 1))

    def test_bounds(self) -> None:
        """Those silent for longest are forgotten, when there are too many or after long."""
        book = LineBook(max_processes=2, remember_seconds=10.0)
        for pid in (1, 2, 1, 3):
            book.take([line(pid=pid)], 0.0)
        self.assertEqual(len(book), 2)
        self.assertEqual(book.take([line(pid=1)], 0.0).repeated, 1)
        self.assertEqual(book.take([line(pid=2)], 0.0).repeated, 0)
        book.take([line(pid=4)], 11.0)
        self.assertEqual(len(book), 1)

    @given(st.data())
    def test_any_repetition(self, data: st.DataObject) -> None:
        """Over two ways, in any interleaving, with any repetition, each line is new once, and in
        the order in which it came first."""
        lines = [line(seq, pid=pid) for pid in (1, 2) for seq in range(1, 5)]
        came = data.draw(st.lists(st.sampled_from(lines), max_size=40))
        book, fresh = LineBook(), []
        while came:
            count = data.draw(st.integers(1, len(came)))
            batch = book.take(came[:count], 0.0)
            self.assertEqual(batch.answers, b"+" * count)
            fresh += batch.fresh
            came = came[count:]
        self.assertEqual(fresh, list(dict.fromkeys(fresh)))

    @given(st.lists(st.binary(max_size=40), max_size=10))
    def test_any_bytes(self, lines: list[bytes]) -> None:
        """Anything is answered, and nothing raises."""
        self.assertEqual(len(LineBook().take(lines, 0.0).answers), len(lines))
        LineBook().take(lines, 0.0, mend=True)


class MessageMakerTests(SynchronousTestCase):
    """Lines to messages."""

    def test_message(self) -> None:
        """What subscribers see is the line, and who wrote it."""
        (message,) = MessageMaker("slurm").messages([line()], Credential(0, 7), 5_000_000)
        self.assertEqual(message.body, line())
        self.assertEqual(message.image[-1:], b"\0")
        self.assertEqual((message.channel, message.kind, message.perm), ("slurm", JSON, 0o440))
        self.assertEqual((message.uid, message.gid, message.received_us), (0, 7, 5_000_000))
        self.assertEqual(message.credit, len(b"slurm\0") + len(line()) + 1)
        self.assertEqual(hash_of_message(message), hash_of_channel("slurm"))

    def test_forwarded(self) -> None:
        """A message can be sent on to a peer, who gets it as from a C notifier."""
        (message,) = MessageMaker("slurm").messages([line()], Credential(0, 0), 5_000_000)
        pair = LinkPair()
        pair.client.send(Forward.of(message), NOW)
        pair.settle()
        (got,) = (event for event in pair.events[pair.server] if isinstance(event, Message))
        self.assertEqual((got.body, got.channel, got.hop_count), (line(), "slurm", 2))

    def test_numbers(self) -> None:
        """No two messages have the same number."""
        maker = MessageMaker("slurm")
        made = [*maker.messages([b"a", b"b"], Credential(0, 0), 0)]
        made += maker.messages([b"c"], Credential(0, 0), 0)
        self.assertEqual([message.number for message in made], [1, 2, 3])

    def test_channel(self) -> None:
        """A name that cannot be a channel's is refused."""
        self.assertRaises(PublishError, MessageMaker, "a\0b")
