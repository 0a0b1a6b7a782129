"""``ldmsjob demo``: what it shows, what it checks, and that it works."""

from __future__ import annotations

import io
import os
from collections import Counter
from pathlib import Path

from rich.console import Console
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase, TestCase

from ldmsjob.cli import demo_session
from ldmsjob.cli.demo_session import (
    LINE_WORDS,
    LONGEST_PAUSE,
    SCENARIO_PAUSE,
    SCENARIOS,
    SHORTEST_PAUSE,
    Demo,
    expected_events,
    pause_before,
)
from ldmsjob.cli.demo_table import Board, LiveView, PlainView, ended_how
from ldmsjob.cli.output import WatchedOutput
from ldmsjob.jobmgr.slurm import SlurmJobManager
from ldmsjob.replay import recorded_messages
from ldmsjob.testing import FakeDaemon, FakeJobManagerContext, replay
from tests.scenario_lines import expected_lines


def console(width: int = 100) -> Console:
    """A console that writes to memory."""
    return Console(file=io.StringIO(), width=width, height=30, force_terminal=True)


class ScenarioTests(SynchronousTestCase):
    """The demo's own expectations."""

    def test_expectations_agree_with_the_expected_lines(self) -> None:
        """What the demo expects of a scenario is what its hand-written lines say."""
        lines = expected_lines()
        for scenario in SCENARIOS:
            words = Counter(line.partition(":")[0] for line in lines[scenario.name])
            expected = expected_events([scenario])
            self.assertEqual({word: expected[name] for word, name in LINE_WORDS.items()}, words)

    def test_the_interesting_ones_are_there(self) -> None:
        """At least eight scenarios; requeue, array, overlap and cancel are among them."""
        names = {scenario.name for scenario in SCENARIOS}
        self.assertGreaterEqual(len(names), 8)
        self.assertLessEqual({"requeue", "array3", "overlap", "cancel_running"}, names)

    def test_pauses_can_be_followed(self) -> None:
        """Pauses keep the recorded rhythm, but none is too short to see or too long to bear."""
        messages = recorded_messages([scenario.name for scenario in SCENARIOS])
        pauses = [
            pause_before(message, previous)
            for previous, message in zip([None, *messages], messages, strict=False)
        ]
        self.assertEqual(pauses[0], 0.0)
        self.assertEqual(pauses.count(SCENARIO_PAUSE), len(SCENARIOS) - 1)
        self.assertGreaterEqual(min(pauses[1:]), SHORTEST_PAUSE)
        self.assertLessEqual(max(pauses[1:]), max(LONGEST_PAUSE, SCENARIO_PAUSE))
        self.assertLess(sum(pauses), 40)


class ViewTests(SynchronousTestCase):
    """The two ways of showing what happens."""

    def play(self, board: Board, scenario: str) -> None:
        """Let the core make a scenario's events for ``board``."""
        daemon = FakeDaemon()
        manager = SlurmJobManager(FakeJobManagerContext(daemon))
        manager.configure({"message_channel": "slurm"})
        manager.start()
        daemon.jobs.subscribe(board, name="board")
        for payload in replay(scenario):
            daemon.publish(payload)

    def test_plain_view_has_a_line_for_each_event(self) -> None:
        """Each event is one line: the job, the kind, and what happened in words."""
        board, output = Board(), console()
        PlainView(output, board)
        self.play(board, "cancel_running")
        lines = output.file.getvalue().splitlines()
        self.assertEqual(len(lines), sum(board.events.values()))
        self.assertEqual(lines[0].split(), ["slurm_22", "job_started", "started"])
        self.assertIn("killed by signal 15", lines[4])

    def test_live_view_shows_jobs_and_events(self) -> None:
        """The table names the job with its state and its set, the panel its last events."""
        board, output = Board(), console()
        view = LiveView(output, board)
        self.play(board, "requeue")
        view.close()
        last = output.file.getvalue().rpartition("Jobs")[2]
        for text in ("slurm_34 #2", "job_slurm_34.2", "job_set_deleted", "ended, 1 task failed"):
            self.assertIn(text, last)

    def test_names_are_not_taken_for_markup(self) -> None:
        """A job's name is shown as it is, whatever it holds."""
        board, output = Board(), console(120)
        view = LiveView(output, board)
        self.play(board, "name_special")
        view.close()
        self.assertIn('we"ird \\name é', output.file.getvalue().rpartition("Jobs")[2])

    def test_statuses_in_words(self) -> None:
        """A raw wait status says how a task ended."""
        self.assertEqual(
            [ended_how(status) for status in (0, 768, 9, 139, -1, None)],
            [
                "exit 0",
                "exit 3",
                "killed by signal 9",
                "killed by signal 11",
                "status unknown",
                "status unknown",
            ],
        )


class DemoTests(TestCase):
    """The whole of it, over loopback."""

    def run_demo(self, output: Console) -> Deferred[int]:
        """A run without pauses in a directory of its own."""
        directory = Path(self.mktemp())
        directory.mkdir()
        self.demo = Demo(reactor, output, directory, fast=True, live=False)
        return self.demo.run()

    async def test_everything_arrives(self) -> None:
        """It ends with status 0 and says what came, and where the event file was."""
        output = console()
        status = await self.run_demo(output)
        text = output.file.getvalue()
        self.assertEqual(status, 0, text)
        self.assertIn("Nothing was lost.", text)
        self.assertIn(str(self.demo.event_file), text)
        self.assertIn(f"{len(SCENARIOS)} scenarios", text)

    async def test_what_is_missing_is_reported(self) -> None:
        """It ends with status 1 and names what is wrong when events are missing."""
        messages = recorded_messages(scenario.name for scenario in SCENARIOS)
        self.patch(demo_session, "recorded_messages", lambda scenarios: messages[:-1])
        output = console()
        self.assertEqual(await self.run_demo(output), 1)
        text = output.file.getvalue()
        self.assertIn("WRONG: job_ended: 12 events, expected 13", text)
        self.assertIn("WRONG: jobset_delete: 12 lines in the event file, expected 13", text)


class WatchedOutputTests(SynchronousTestCase):
    """Output whose reader may leave."""

    def test_reader_leaves(self) -> None:
        """It is told once; what is printed later goes nowhere, and raises nothing."""
        read, write = os.pipe()
        os.close(read)
        left: list[str] = []
        with open(write, "w", buffering=1, encoding="utf-8", closefd=False) as stream:
            self.addCleanup(os.close, write)
            output = WatchedOutput(stream, lambda error: left.append(type(error).__name__))
            for text in ("a\n", "b\n"):
                self.assertEqual(output.write(text), 2)
                output.flush()
            self.assertEqual(left, ["BrokenPipeError"])
            os.dup2(os.open(os.devnull, os.O_WRONLY), write)
