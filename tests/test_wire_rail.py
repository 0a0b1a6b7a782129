"""``ldmsjob.wire.rail``: which connections belong together, and which carries what."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.wire import msg
from ldmsjob.wire.events import SourceAddress
from ldmsjob.wire.rail import MAX_ENDPOINTS, RailGroups, RailKey, endpoint_of_message
from ldmsjob.wire.xprt import ConnectionRefused

KEY = RailKey("10.0.0.7", 4711, 1)


def hash_of(channel):
    """The number in a message's hash field."""
    return int.from_bytes(msg.tag_hash(channel), "little")


class EndpointOfMessageTests(SynchronousTestCase):
    """The endpoint that the C library chooses."""

    def test_without_source(self):
        """Only the hash counts."""
        self.assertEqual([hash_of(b"plain"), hash_of(b"tagA")], [165015573, 218543632])
        for source in (None, SourceAddress(0, 0, bytes(16))):
            for hashed, expected in ((165015573, [0, 1, 0, 1, 1]), (218543632, [0, 0, 2, 2, 1])):
                chosen = [endpoint_of_message(source, hashed, count) for count in range(1, 6)]
                self.assertEqual(chosen, expected)

    def test_with_source(self):
        """The low half of the address, and the port, stand above the hash."""
        packed = bytes((10, 0, 1, 2))
        number = (0x0102 << 48) | (4242 << 32) | 165015573
        for source in (
            SourceAddress(2, 4242, packed + bytes(12)),
            SourceAddress(10, 4242, bytes(12) + packed),
        ):
            for endpoints in range(1, 9):
                self.assertEqual(
                    endpoint_of_message(source, 165015573, endpoints), number % 1033 % endpoints
                )

    def test_high_half_of_the_address_falls_off(self):
        """As it does in C."""
        one = SourceAddress(2, 1, bytes((10, 0, 1, 2)) + bytes(12))
        two = SourceAddress(2, 1, bytes((192, 168, 1, 2)) + bytes(12))
        self.assertEqual(endpoint_of_message(one, 99, 1000), endpoint_of_message(two, 99, 1000))

    @given(
        st.sampled_from([0, 2, 10]),
        st.integers(0, 65535),
        st.binary(min_size=16, max_size=16),
        st.integers(0, 2**32 - 1),
        st.integers(1, 64),
    )
    def test_in_range(self, family, port, address, hashed, endpoints):
        """Whatever a message says, there is such an endpoint."""
        chosen = endpoint_of_message(SourceAddress(family, port, address), hashed, endpoints)
        self.assertIn(chosen, range(endpoints))


class RailGroupsTests(SynchronousTestCase):
    """How connections become a rail."""

    def check(self, groups, key, endpoints, index, text):
        """It is refused with that text."""
        error = self.assertRaises(ConnectionRefused, groups.join, key, endpoints, index)
        self.assertEqual(str(error), text)

    def test_any_order(self):
        """The endpoints of several rails may come mixed."""
        groups = RailGroups()
        other = replace(KEY, rail_gn=2)
        first = groups.join(KEY, 3, 2)
        second = groups.join(other, 2, 1)
        self.assertEqual(groups.incomplete, 2)
        self.assertIs(groups.join(KEY, 3, 0), first)
        self.assertIs(groups.join(other, 2, 0), second)
        self.assertEqual((groups.incomplete, second.missing, first.missing), (1, 0, 1))
        self.assertIs(groups.join(KEY, 3, 1), first)
        self.assertEqual(groups.incomplete, 0)

    def test_keys(self):
        """Address, process and number of the rail all tell rails apart."""
        groups = RailGroups()
        keys = [KEY, RailKey("::1", 4711, 1), RailKey("10.0.0.7", 4712, 1), replace(KEY, rail_gn=2)]
        self.assertEqual(len({id(groups.join(key, 2, 0)) for key in keys}), 4)

    def test_refusals(self):
        """The texts of the C library, in its order."""
        groups = RailGroups()
        self.check(groups, KEY, 2, 2, "bad ep_idx 2 (should be in 0..1 range)")
        self.assertEqual(groups.incomplete, 0)
        group = groups.join(KEY, 2, 0)
        self.check(groups, KEY, 3, 7, "bad request, expecting rail of 2 eps, but got 3")
        self.check(groups, KEY, 2, 7, "bad ep_idx 7 (should be in 0..1 range)")
        self.check(groups, KEY, 2, 0, "bad ep_idx 0, the endpoint already existed")
        groups.join(KEY, 2, 1)
        self.check(groups, KEY, 2, 1, "bad ep_idx 1, the endpoint already existed")
        groups.leave(group, 0)
        unexpected = "Unexpected connection request on rail 10.0.0.7-4711-1"
        self.check(groups, KEY, 2, 0, unexpected)

    def test_closed_while_incomplete(self):
        """When one goes no other comes in; when the last one has gone the name is free."""
        groups = RailGroups()
        group = groups.join(KEY, 3, 0)
        groups.join(KEY, 3, 1)
        groups.leave(group, 1)
        self.assertEqual(groups.incomplete, 0)
        self.check(groups, KEY, 3, 2, "Unexpected connection request on rail 10.0.0.7-4711-1")
        groups.leave(group, 0)
        self.assertIsNot(groups.join(KEY, 3, 2), group)
        self.assertEqual(groups.incomplete, 1)

    def test_bounds(self):
        """Incomplete rails, and what a rail may claim, have a limit; complete ones do not count."""
        groups = RailGroups(max_incomplete=2)
        numbered = [replace(KEY, rail_gn=number) for number in range(3)]
        groups.join(numbered[0], 2, 0)
        groups.join(numbered[1], 2, 0)
        self.check(groups, numbered[2], 2, 0, "Insufficient resources")
        groups.join(numbered[0], 2, 1)
        groups.join(numbered[2], 2, 0)
        self.check(RailGroups(), KEY, MAX_ENDPOINTS + 1, 0, "Insufficient resources")
