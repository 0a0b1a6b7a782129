"""Tests of ldmsjob.wire.request."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.wire.buffers import Limits
from ldmsjob.wire.events import (
    AnswerDaemonRequest,
    AskDaemon,
    DaemonAnswer,
    DaemonRequest,
    Refused,
)
from ldmsjob.wire.request import (
    ATTRIBUTE_HEAD,
    JSON,
    MAX_RECORD,
    RECORD_HEAD,
    STATUS,
    RequestReader,
    read_attributes,
    request,
    response,
    responses,
)
from tests.linkpair import LinkPair

OPENING = "ffffffff 00000001 00000003 00000001 00000003 0000001c 00000000"
LOG_LEVEL = (
    "ffffffff 00000001 00000003 00000002 00000602 0000003f 00000001 00000014 00000005 494e464f00"
    "00000001 00000018 00000006 66616c736500 00000000"
)
DAEMON_STATUS = "ffffffff 00000001 00000003 00000000 00000603 0000001c 00000000"
ACK = (
    "ffffffff 00000002 00000003 00000001 00000000 0000002c"
    "00000001 00000010 00000004 41434b00 00000000"
)
GREETING = (
    "ffffffff 00000001 00000001 00000388 00000002 00000026 00000001 00000001 00000004 626f",
    "ffffffff 00000001 00000002 00000388 00000002 0000001e 6200 00000000",
)
STREAM = (
    "ffffffff 00000001 00000003 00000001 00000901 00000032"
    "00000001 00000001 0000000a 6f6c6473747265616d00 00000000"
)
STREAM_ANSWER = (
    "ffffffff 00000002 00000003 00000001 00000026 00000057 00000001 00000010 0000002f"
    + b"The stream service is DISABLED on this system.\0".hex()
    + "00000000"
)


def record(flags=3, msg_no=1, code=3, body=bytes(4), **changes):
    """A request's record."""
    fields = {
        "marker": 0xFFFF_FFFF,
        "record_type": 1,
        "flags": flags,
        "msg_no": msg_no,
        "code": code,
        "record_len": 24 + len(body),
    }
    fields.update(changes)
    return RECORD_HEAD.build(fields) + body


def attribute(number, value, length=None):
    """One attribute of a request."""
    length = len(value) if length is None else length
    return ATTRIBUTE_HEAD.build({"present": 1, "attribute": number, "value_len": length}) + value


def meaning(answer):
    """(msg_no, error, text) of a response with one text."""
    head = RECORD_HEAD.parse(answer)
    assert (head.marker, head.record_type, head.flags) == (0xFFFF_FFFF, 2, 3)
    assert head.record_len == len(answer)
    ((number, value),) = read_attributes(answer[24:])
    assert number == 16
    assert value.endswith(b"\0")
    return head.msg_no, head.code, value[:-1].decode()


class RequestReaderTests(SynchronousTestCase):
    """No daemon request is implemented, and each gets an answer."""

    def setUp(self):
        """A reader with small limits."""
        self.reader = RequestReader(Limits(partial_requests=2, partial_request_bytes=100))

    def check(self, raw, *expected, reason="daemon_request"):
        """What the answer to one record means."""
        answer, word = self.reader.receive(raw)
        self.assertEqual(meaning(answer), expected)
        self.assertEqual(word, reason)

    def check_bad(self, raw, *expected):
        """As ``check``, for a request that cannot be read."""
        self.check(raw, *expected, reason="bad_daemon_request")

    def test_recorded_requests(self):
        """What ldmsd_controller, ldmsctl and ldmsd ask is refused with error 38."""
        text = "The request is not implemented"
        self.check(bytes.fromhex(OPENING), 1, 38, text)
        self.check(bytes.fromhex(LOG_LEVEL), 2, 38, text)
        self.check(bytes.fromhex(DAEMON_STATUS), 0, 38, text)

    def test_stream_requests(self):
        """The stream service is disabled, in the very bytes of the C daemon."""
        answer, _ = self.reader.receive(bytes.fromhex(STREAM))
        self.assertEqual(answer, bytes.fromhex(STREAM_ANSWER))
        text = "The stream service is DISABLED on this system."
        for code in range(0x900, 0x906):
            self.check(record(code=code), 1, 38, text)
        for code in (0x8FF, 0x906):
            self.check(record(code=code), 1, 38, "The request is not implemented")

    def test_response_bytes(self):
        """A response is built as the C daemon builds it."""
        self.assertEqual(response(1, 0, 16, b"ACK\0"), bytes.fromhex(ACK))

    def test_several_records(self):
        """Records are put together wherever they cut an attribute; only the last is answered."""
        first, second = map(bytes.fromhex, GREETING)
        self.assertEqual(self.reader.receive(first), (None, None))
        self.assertEqual(self.reader.kept_bytes, 14)
        self.check(second, 0x388, 38, "The request is not implemented")
        self.assertEqual(self.reader.kept_bytes, 0)

    def test_responses_are_ignored(self):
        """Nobody here has asked anything."""
        self.assertEqual(self.reader.receive(bytes.fromhex(ACK)), (None, "daemon_response"))
        other = record(record_type=3)
        self.assertEqual(self.reader.receive(other), (None, "bad_daemon_request"))

    def test_missing_marker(self):
        """What is no record at all is answered without a message number."""
        for raw in (b"", b"hello", record()[:23], record(marker=1)):
            self.check_bad(raw, 0xFFFF_FFFF, 22, "Config request is missing record marker")

    def test_malformed(self):
        """Bad lengths and lists without an end are answered with error 22."""
        for raw in (
            record(record_len=29),
            record() + b"x",
            record(body=b""),
            record(body=bytes(5)),
            record(body=bytes.fromhex("00000002")),
            record(body=attribute(1, b"x\0")),
            record(body=attribute(1, b"x\0", 3) + bytes(4)),
            record(body=attribute(1, b"x\0", 0xFFFF_FFFF) + bytes(4)),
        ):
            self.check_bad(raw, 1, 22, "LDMSD received a bad request.")

    def test_values_without_nul(self):
        """A value is what its length says."""
        self.check(
            record(body=attribute(1, b"x") + attribute(24, b"") + bytes(4)),
            1,
            38,
            "The request is not implemented",
        )

    def test_a_malformed_message_is_forgotten(self):
        """Its number can be used again."""
        self.reader.receive(record(flags=1, msg_no=5))
        self.check_bad(
            record(flags=2, msg_no=5, record_len=1), 5, 22, "LDMSD received a bad request."
        )
        self.assertEqual(self.reader.kept_bytes, 0)
        self.check(record(msg_no=5), 5, 38, "The request is not implemented")

    def test_record_too_long(self):
        """The answer tells the limit, little-endian."""
        answer, _ = self.reader.receive(record(record_len=1_048_517))
        self.assertEqual(RECORD_HEAD.parse(answer).code, 7)
        self.assertEqual(read_attributes(answer[24:]), [(25, bytes.fromhex("c4ff0f00"))])

    def test_continuation_without_start(self):
        """A record of a message that did not begin."""
        self.check_bad(record(flags=2, msg_no=9), 9, 2, "The message no 9 was not found.")
        self.check_bad(record(flags=0, msg_no=9), 9, 2, "The message no 9 was not found.")

    def test_second_start(self):
        """A message number that is in use is refused, and the first message goes on."""
        self.reader.receive(record(flags=1, msg_no=9, body=bytes(2)))
        text = "Duplicate message number 9:9received"
        self.check_bad(record(flags=1, msg_no=9, body=bytes(3)), 9, 98, text)
        answer = record(flags=2, msg_no=9, body=bytes(2))
        self.check(answer, 9, 38, "The request is not implemented")

    def test_bounds(self):
        """Neither many nor long messages are kept, and each refusal is answered."""
        text = "The request is too long."
        self.reader.receive(record(flags=1, msg_no=1, body=bytes(50)))
        self.reader.receive(record(flags=1, msg_no=2, body=bytes(50)))
        self.check_bad(record(flags=1, msg_no=3), 3, 7, text)
        self.check_bad(record(flags=0, msg_no=2, body=b"x"), 2, 7, text)
        self.assertEqual(self.reader.kept_bytes, 50)
        self.check_bad(record(flags=2, msg_no=2), 2, 2, "The message no 2 was not found.")

    @given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.binary(max_size=60))))
    def test_hostile(self, records):
        """Any records are answered or kept within the bounds."""
        reader = RequestReader(Limits(partial_requests=2, partial_request_bytes=100))
        for flags, msg_no, body in records:
            raw = body if flags > 3 else record(flags=flags, msg_no=msg_no, body=body)
            answer, reason = reader.receive(raw)
            if answer is not None:
                self.assertEqual(meaning(answer)[1] in (2, 7, 22, 38, 98), True)
                self.assertIn(reason, ("daemon_request", "bad_daemon_request"))
            self.assertLessEqual(reader.kept_bytes, 100)


class TakenTests(SynchronousTestCase):
    """Requests that the owner answers, and answers to our own."""

    def test_taken(self):
        """What the owner takes is given to it with its attributes, and not answered here."""
        reader = RequestReader(Limits(), [7])
        body = attribute(1, b"x\0") + bytes(4)
        self.assertEqual(reader.receive(record(code=7, msg_no=3, body=body)), (None, None))
        self.assertEqual(reader.events, [DaemonRequest(3, 7, [(1, b"x\0")])])
        answer, word = reader.receive(record(code=8))
        self.assertEqual((meaning(answer)[1], word), (38, "daemon_request"))

    def test_request_bytes(self):
        """A request is built as C tools build it."""
        self.assertEqual(request(0, 0x603), bytes.fromhex(DAEMON_STATUS))

    def test_number(self):
        """Our own request is none of the C daemon's, which all are below 4096."""
        self.assertGreater(STATUS, 0xFFFF)

    def test_long_responses(self):
        """They are cut into records that each are no longer than a record may be."""
        for size in (MAX_RECORD - 40, MAX_RECORD - 39, 3 * MAX_RECORD):
            records = responses(5, 0, JSON, b"x" * size)
            self.assertTrue(all(len(one) <= MAX_RECORD for one in records))
            heads = [RECORD_HEAD.parse(one) for one in records]
            self.assertEqual([head.record_len for head in heads], list(map(len, records)))
            flags = [head.flags for head in heads]
            self.assertEqual(flags, [3] if len(flags) == 1 else [1, *[0] * (len(flags) - 2), 2])
            reader = RequestReader(Limits())
            reader.asked(5)
            for one in records:
                self.assertEqual(reader.receive(one), (None, None))
            (event,) = reader.events
            self.assertEqual((event.number, event.error), (5, 0))
            self.assertEqual(event.attributes, [(JSON, b"x" * size)])
            self.assertEqual(reader.kept_bytes, 0)

    def test_answers(self):
        """Only those to what was asked are taken, once."""
        reader = RequestReader(Limits())
        reader.asked(1)
        self.assertEqual(reader.receive(response(2, 0, JSON, b""))[1], "daemon_response")
        self.assertEqual(reader.receive(response(1, 38, 16, b"no")), (None, None))
        self.assertEqual(reader.receive(response(1, 38, 16, b"no"))[1], "daemon_response")
        self.assertEqual(reader.events, [DaemonAnswer(1, 38, [(16, b"no")])])

    def test_bad_answers(self):
        """One that cannot be read, or does not end, is an error and is forgotten."""
        whole = response(1, 0, JSON, b"x" * 50)
        endless = record(record_type=2, flags=0, code=0, body=bytes(60))
        reader = RequestReader(Limits(daemon_answer=100))
        for records in ([whole[:20] + (76).to_bytes(4, "big") + whole[24:76]], [endless] * 2):
            reader.asked(1)
            words = [reader.receive(one)[1] for one in records]
            self.assertEqual(words[-1], "bad_daemon_response")
            self.assertEqual(reader.events.pop(), DaemonAnswer(1, 71))
            self.assertEqual(reader.kept_bytes, 0)

    def test_over_a_connection(self):
        """Asked by one end and answered by the other; who takes no requests answers by itself."""
        pair = LinkPair(server={"requests": [STATUS]})
        (asked,) = pair.send(pair.client, AskDaemon(4, STATUS))
        self.assertEqual(asked, DaemonRequest(4, STATUS, []))
        answer = AnswerDaemonRequest(4, 0, JSON, b"{}")
        self.assertEqual(pair.send(pair.server, answer), [DaemonAnswer(4, 0, [(JSON, b"{}")])])
        (refused,) = pair.send(pair.client, AskDaemon(5, 0x603))
        self.assertEqual(refused, Refused("daemon_request"))
        (answered,) = pair.take(pair.client)
        self.assertEqual((answered.number, answered.error), (5, 38))


class AttributeTests(SynchronousTestCase):
    """Attribute lists."""

    @given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.binary(max_size=20))))
    def test_round_trip(self, attributes):
        """What is written is what is read; cut anywhere it is refused."""
        raw = b"".join(attribute(*one) for one in attributes) + bytes(4)
        self.assertEqual(read_attributes(raw), attributes)
        self.assertIsNone(read_attributes(raw[:-1]))
        self.assertIsNone(read_attributes(raw + b"\0"))
