"""Tests of ldmsjob.jobnodes: which nodes have started and ended a job."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.jobnodes import MAX_NODES, JobNodes


class NodesTests(SynchronousTestCase):
    """The nodes of one attempt."""

    def setUp(self) -> None:
        """Two nodes that started it."""
        self.nodes = JobNodes()
        self.nodes.start("a", 10)
        self.nodes.start("b", 12)

    def test_all_that_started_must_end(self) -> None:
        """The job's end is that of the last of them, whatever comes last."""
        self.assertEqual(self.nodes.end("b", 30), "")
        self.assertFalse(self.nodes.all_ended)
        self.assertTrue(self.nodes.runs("a"))
        self.assertEqual(self.nodes.end("a", 29), "")
        self.assertTrue(self.nodes.all_ended)
        self.assertFalse(self.nodes.runs("a"))
        self.assertEqual((self.nodes.end_us, self.nodes.names), (30, ("a", "b")))

    def test_repetitions(self) -> None:
        """A node starts once and ends once."""
        self.nodes.start("a", 11)
        self.nodes.end("a", 20)
        self.assertEqual(self.nodes.end("a", 21), "repeated_exit")
        self.nodes.start("a", 10)
        self.assertEqual(self.nodes.names, ("a", "b"))
        self.assertFalse(self.nodes.runs("a"))

    def test_end_before_the_start(self) -> None:
        """An exit that is older than the node's start was that of an earlier run."""
        self.assertEqual(self.nodes.end("a", 9), "late")
        self.assertTrue(self.nodes.runs("a"))

    def test_other_nodes(self) -> None:
        """The end of a node that never started it is no end; if its start comes late, it is."""
        self.assertEqual(self.nodes.end("c", 20), "exit_of_other_node")
        self.assertEqual(self.nodes.names, ("a", "b"))
        self.nodes.start("c", 15)
        self.assertFalse(self.nodes.runs("c"))
        self.assertEqual(self.nodes.end_us, 20)
        self.nodes.end("d", 20)
        self.nodes.start("d", 25)
        self.assertTrue(self.nodes.runs("d"))

    def test_restart(self) -> None:
        """A start that follows the node's end is one of another run."""
        self.nodes.end("a", 20)
        self.assertTrue(self.nodes.is_restart("a", 21))
        self.assertFalse(self.nodes.is_restart("a", 15))
        self.assertFalse(self.nodes.is_restart("b", 21))
        self.assertFalse(self.nodes.is_restart("c", 21))

    def test_bound(self) -> None:
        """Made-up names do not take the daemon's memory."""
        for number in range(MAX_NODES + 5):
            self.nodes.end(f"n{number}", 20)
        self.nodes.start("late", 21)
        self.assertEqual(self.nodes.names, ("a", "b"))
        self.assertEqual(self.nodes.end("other", 22), "exit_of_other_node")
        self.assertEqual([self.nodes.end("a", 23), self.nodes.end("b", 23)], ["", ""])
        self.assertTrue(self.nodes.all_ended)
