"""What is wrong, by the rules."""

from __future__ import annotations

import copy
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.problems import counted, find_notes, find_problems, listed, span

WELL: dict[str, Any] = {
    "uptime_seconds": 1000.0,
    "messages_enabled": True,
    "listeners": [
        {"endpoint": "sock:411", "authentication": "munge", "listening": True, "links": 3}
    ],
    "job_managers": [
        {
            "name": "jobmgr_slurm",
            "kind": "jobmgr",
            "state": "started",
            "group": "plugins/jobmgr.jobmgr_slurm.jobmgr_slurm",
            "last_notice_seconds": 2.0,
        }
    ],
    "samplers": [],
    "subscribers": [{"name": "x", "queued": 0, "limit": 10_000, "busy_seconds": 0.0}],
    "journal": {
        "path": "/j",
        "problem": "",
        "waiting": 0,
        "max_waiting": 100_000,
        "lag_seconds": 0.0,
        "damaged": 0,
    },
    "gauges": {"daemon": {"open_descriptors": 20, "descriptor_limit": 1024}},
    "recent_seconds": 3600.0,
    "recent": {},
}


class ProblemTests(SynchronousTestCase):
    """A document with something wrong in it."""

    def check(self, change: dict[str, Any], *expected: str) -> list[dict[str, str]]:
        """The sentences about ``WELL`` with these changes begin so."""
        document = copy.deepcopy(WELL)
        for key, value in change.items():
            known = document[key]
            if isinstance(known, list) and known and value:
                known[0].update(value)
            elif isinstance(known, dict) and value:
                known.update(value)
            else:
                document[key] = value
        found = find_problems(document)
        self.assertEqual(
            [one["what"][: len(two)] for one, two in zip(found, expected, strict=True)],
            list(expected),
        )
        self.assertTrue(all(one["advice"] for one in found))
        return found

    def recent(self, group: str, counters: dict[str, int], *expected: str) -> None:
        """The same for what was counted recently."""
        self.check({"recent": {group: counters}}, *expected)

    def test_well(self) -> None:
        """Nothing is wrong with it."""
        self.check({})
        self.assertEqual(find_notes(WELL), [])
        self.check({"journal": None})

    def test_worst_first(self) -> None:
        """Lost lines stand in front of strangers that knock."""
        found = self.check(
            {
                "recent": {
                    "links": {"not_opened.handshake": 5},
                    "plugins/xprt.notifier": {"lost_by_notifiers": 1200},
                }
            },
            "1,200 lines of notifiers were lost in the last 60 min",
            "5 connections did not become links in the last 60 min: handshake 5",
        )
        self.assertEqual([one["severity"] for one in found], ["error", "warning"])

    def test_journal(self) -> None:
        """Refused, lost, damaged, unreadable."""
        self.check(
            {"journal": {"problem": "full", "lag_seconds": 700.0, "waiting": 1}},
            "the journal /j cannot be written for 12 min: full; 1 row of it waits in",
        )
        self.recent("journal", {"lost": 1}, "1 row for the journal was lost")
        self.recent("journal", {"unreadable": 2}, "2 records of the journal could not be read")
        self.check({"journal": {"damaged": 1}}, "the journal was damaged and set aside (1 file)")

    def test_services(self) -> None:
        """Listeners, the message service, plugins that have failed."""
        self.check({"listeners": {"listening": False}}, "nobody listens at sock:411")
        self.check({"messages_enabled": False}, "the message service is off")
        self.check({"job_managers": {"state": "failed"}}, "jobmgr jobmgr_slurm has failed")

    def test_subscribers(self) -> None:
        """Stuck, slow, failing, closed."""
        self.check({"subscribers": {"busy_seconds": 4.9, "queued": 7}})
        self.check(
            {"subscribers": {"busy_seconds": 7300.0}},
            "subscriber x is stuck: it has not been done with one event for 2 h",
        )
        self.recent("subscribers/x", {"lost": 1}, "1 event for subscriber x was lost")
        self.recent("subscribers/gone", {"failed": 3}, "subscriber gone failed 3 times")
        self.recent("subscribers/gone", {"discarded": 3}, "subscriber gone was closed before")
        self.recent("subscribers/x", {"delivered": 3})

    def test_plugins(self) -> None:
        """Failures, messages of no use, lines that were not written."""
        self.recent(
            "plugins/sampler.x.y",
            {"failures": 1, "sample_failures": 2},
            "sampler.x.y failed 3 times",
        )
        self.recent(
            "plugins/jobmgr.a.b",
            {"rejected_job_id": 1, "rejected_syntax": 2000, "messages": 5000},
            "jobmgr.a.b could not use 2,001 messages in the last 60 min: syntax 2,000, job id 1",
        )
        self.recent("plugins/sampler.x.y", {"lines_lost": 2}, "sampler.x.y lost 2 lines")

    def test_notifiers(self) -> None:
        """Spools that cannot be read, and lines that are none."""
        group = "plugins/xprt.notifier"
        self.recent(group, {"spool_errors": 1}, "the notifiers' spool could not be read")
        self.recent(group, {"refused.too_long": 1}, "1 line of notifiers was refused")
        self.recent(group, {"repeated": 5, "lines": 10})

    def test_messages(self) -> None:
        """Dropped for slow peers; what was dropped because a peer left is ordinary."""
        self.recent(
            "messages",
            {"dropped_stuck": 5, "dropped_closed": 9, "dropped_queue_full": 1, "dropped_rate": 1},
            "6 messages for peers that subscribed were dropped in the last 60 min: stuck 5, queue",
        )
        self.recent("messages", {"dropped_closed": 9, "forwarded": 100})
        self.recent("messages", {"publisher_refused": 1}, "1 message was kept from a job manager")
        self.recent("messages", {"receiver_failures": 2}, "2 messages came which a job manager")
        self.recent("links", {"refused_off": 2}, "2 messages were refused")

    def test_where_to_look(self) -> None:
        """What is logged as a warning is not in the log by default: the advice says so."""
        for group, counter in (
            ("plugins/jobmgr.jobmgr_slurm.jobmgr_slurm", "rejected_type"),
            ("plugins/xprt.notifier", "refused.syntax"),
            ("messages", "dropped_stuck"),
            ("messages", "publisher_refused"),
            ("links", "not_opened.handshake"),
            ("links", "closed.does not read"),
            ("links", "not_opened.too many of one address"),
            ("jobs", "refused.jobs"),
        ):
            (found,) = find_problems(copy.deepcopy(WELL) | {"recent": {group: {counter: 1}}})
            self.assertIn("(log_level level=WARNING)", found["advice"], counter)

    def test_links(self) -> None:
        """Limits, authentication, strangers; who only looks who listens is no problem."""
        self.recent("links", {"not_opened.closed without a word": 9, "closed.ConnectionLost": 9})
        self.recent(
            "links",
            {"not_opened.too many": 9, "not_opened.authentication refused": 2},
            "9 connections were refused in the last 60 min because of limits: too many 9",
            "2 connections failed to authenticate in the last 60 min: authentication refused 2",
        )
        self.recent(
            "links",
            {"closed.does not read": 1},
            "1 link was closed by us in the last 60 min: does not read 1",
        )
        self.check(
            {"gauges": {"daemon": {"open_descriptors": 231, "descriptor_limit": 256}}},
            "231 of 256 descriptors are open",
        )

    def test_room(self) -> None:
        """What the limits have kept out."""
        self.recent(
            "jobs",
            {"refused.jobs": 3, "refused.steps_per_job": 4, "late": 9},
            "7 notices were refused in the last 60 min because of limits: steps per job 4, jobs 3",
        )
        self.recent("links", {"no_descriptor": 2}, "there was no file descriptor for further")
        self.recent("links", {"not_opened.too many not authenticated": 1}, "1 connection was ref")

    def test_sets(self) -> None:
        """Job sets that are not what they should be."""
        self.recent("job_sets", {"tasks_left_out": 1}, "1 task found no room in their job sets")
        self.recent("job_sets", {"not_offered": 1, "made": 3}, "1 job set could not be offered")

    def test_notes(self) -> None:
        """What may be as it should: silence, no journal, believing listeners."""
        document = copy.deepcopy(WELL)
        document["journal"] = None
        document["listeners"][0]["authentication"] = "none"
        document["job_managers"][0]["last_notice_seconds"] = 200_000.0
        self.assertEqual(
            find_notes(document),
            [
                "peers are believed without a proof at sock:411 (none)",
                "there is no journal: what is accepted is forgotten when the daemon ends",
                "jobmgr_slurm has had no notice for 2 days",
            ],
        )
        self.assertEqual(find_problems(document), [])
        document["job_managers"][0]["last_notice_seconds"] = None
        self.assertEqual(len(find_notes(document)), 2)
        document["uptime_seconds"] = 100_000.0
        self.assertIn("has had no notice since the start", find_notes(document)[-1])


class WordTests(SynchronousTestCase):
    """How numbers read."""

    def test_words(self) -> None:
        """Spans, counts and lists."""
        self.assertEqual(
            [span(one) for one in (0, 119, 120, 7199, 7200, 172_800)],
            ["0 s", "119 s", "2 min", "120 min", "2 h", "2 days"],
        )
        self.assertEqual([counted(one, "job") for one in (1, 1000)], ["1 job", "1,000 jobs"])
        self.assertEqual(listed(list("abcdef")), "a, b, c, d and 2 more")
