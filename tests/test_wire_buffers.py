"""Tests of ldmsjob.wire.buffers."""

from __future__ import annotations

from construct import Array, Bytes, Int16ub, Int32sb, Int32ub, Int32ul, Int64ub, Padding, Struct
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.wire import credit, msg, request, setmessages, subscriptions, xprt, zap
from ldmsjob.wire.buffers import ReceiveBuffer, flat_struct

DECLARATIONS = {
    "CONNECT_HEAD": zap.CONNECT_HEAD,
    "COUNTED_HEAD": zap.COUNTED_HEAD,
    "RENDEZVOUS_HEAD": zap.RENDEZVOUS_HEAD,
    "READ_REQUEST": zap.READ_REQUEST,
    "READ_RESPONSE_HEAD": zap.READ_RESPONSE_HEAD,
    "WRITE_RESPONSE": zap.WRITE_RESPONSE,
    "CONNECTION_MESSAGE": xprt.CONNECTION_MESSAGE,
    "COUNTED_REQUEST": xprt.COUNTED_REQUEST,
    "DIR_REPLY_HEAD": setmessages.DIR_REPLY_HEAD,
    "LOOKUP_HEAD": setmessages.LOOKUP_HEAD,
    "NOTIFY_REQUEST": setmessages.NOTIFY_REQUEST,
    "NOTIFICATION_HEAD": setmessages.NOTIFICATION_HEAD,
    "PUSH_HEAD": setmessages.PUSH_HEAD,
    "SET_DELETE_REPLY_BODY": setmessages.SET_DELETE_REPLY_BODY,
    "ANNOUNCEMENT_HEAD": setmessages.ANNOUNCEMENT_HEAD,
    "PUSH_REGISTRATION": setmessages.PUSH_REGISTRATION,
    "FRAGMENT_HEAD": msg.FRAGMENT_HEAD,
    "MESSAGE_FIXED": msg.MESSAGE_FIXED,
    "HOP": msg.HOP,
    "CREDIT": credit.CREDIT,
    "SUBSCRIPTION_HEAD": subscriptions.SUBSCRIPTION_HEAD,
    "SUBSCRIPTION_REPLY_HEAD": subscriptions.SUBSCRIPTION_REPLY_HEAD,
    "RECORD_HEAD": request.RECORD_HEAD,
    "ATTRIBUTE_HEAD": request.ATTRIBUTE_HEAD,
}


def values(parsed):
    """The values that construct parsed, in order of declaration, without padding."""
    return tuple(value for name, value in parsed.items() if name and not name.startswith("_"))


class FlatStructTests(SynchronousTestCase):
    """``flat_struct`` writes nothing down twice."""

    def test_takes_the_fields_in_order(self):
        """Nested declarations become one structure, padding disappears from the values."""
        inner = Struct("b" / Int32sb, Padding(3), "c" / Bytes(2))
        layout = flat_struct(Struct("a" / Int16ub, "inner" / inner), Struct("d" / Int64ub))
        self.assertEqual(layout.format, ">Hl3x2sQ")

    def test_skips_what_is_not_asked_for(self):
        """With ``only`` the other fields are padding of their size."""
        layout = flat_struct(zap.COUNTED_HEAD, only=("length", "data_len"))
        self.assertEqual(layout.format, ">2x2xL4x8xL")

    def test_refuses_names_that_are_not_declared_once(self):
        """A misspelt or ambiguous name is found when the module is imported."""
        one = Struct("a" / Int16ub)
        self.assertRaises(ValueError, flat_struct, one, only=("b",))
        self.assertRaises(ValueError, flat_struct, one, one, only=("a",))

    def test_refuses_what_it_cannot_express(self):
        """Little-endian and composite fields are not taken for something else."""
        self.assertRaises(ValueError, flat_struct, Struct("a" / Int32ul))
        self.assertRaises(ValueError, flat_struct, Struct("a" / Array(2, Int32ub)))

    @given(st.data())
    def test_agrees_with_construct(self, data):
        """Random bytes give the same values either way, and the values the same bytes."""
        for name, declaration in DECLARATIONS.items():
            layout = flat_struct(declaration)
            self.assertEqual(layout.size, declaration.sizeof(), name)
            raw = data.draw(st.binary(min_size=layout.size, max_size=layout.size), name)
            parsed = declaration.parse(raw)
            flat = layout.unpack(raw)
            self.assertEqual(flat, values(parsed), name)
            self.assertEqual(layout.pack(*flat), declaration.build(parsed), name)


class ReceiveBufferTests(SynchronousTestCase):
    """What is kept comes back when there is enough of it."""

    def test_gives_fresh_data_through(self):
        """Nothing is copied while nothing is kept."""
        data = b"abc"
        self.assertIs(ReceiveBuffer().take(data), data)

    def test_waits_for_as_much_as_is_wanted(self):
        """Data is put together once, and in order."""
        buffer = ReceiveBuffer()
        buffer.keep(b"xxabc", 2, 6)
        self.assertIsNone(buffer.take(b"d"))
        self.assertEqual(len(buffer), 4)
        self.assertEqual(buffer.take(b"ef"), b"abcdef")
        self.assertEqual(len(buffer), 0)

    def test_forgets(self):
        """``clear`` leaves nothing."""
        buffer = ReceiveBuffer()
        buffer.keep(b"abc", 0, 9)
        buffer.clear()
        self.assertEqual(buffer.take(b"z"), b"z")
