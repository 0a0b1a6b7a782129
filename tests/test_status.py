"""The document that tells how the daemon is."""

from __future__ import annotations

import json
import os
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from ldmsjob import __version__
from ldmsjob.journal.journal import RETRY_SECONDS
from ldmsjob.notices import JobExit, JobInit
from ldmsjob.status import descriptor_limit, host_of, open_descriptors, resident_bytes
from tests.daemons import Rig
from tests.fake_links import FakeLink

CONFIGURATION = """
msg_enable
daemon_name name=node-1
listen xprt=wire port=411
load name=a plugin=jm
config name=a
jobmgr_start name=a
load name=s plugin=sampler
config name=s
load name=sub plugin=subscriber
config name=sub
"""


class StatusTests(SynchronousTestCase):
    """A daemon with one of each."""

    def setUp(self) -> None:
        """Make it, with a journal, and start it."""
        self.rig = Rig(self, state_directory=self.mktemp())
        self.rig.read(CONFIGURATION)
        self.rig.start()

    def document(self) -> dict[str, Any]:
        """The document, as it comes out at the other side."""
        result: dict[str, Any] = json.loads(self.rig.daemon.health.encoded())
        return result

    def problems(self) -> list[str]:
        """What is wrong."""
        return [one["what"] for one in self.document()["problems"]]

    def test_all_is_well(self) -> None:
        """Who it is, and nothing is wrong."""
        self.rig.clock.advance(90)
        document = self.document()
        self.assertEqual(document["problems"], [])
        self.assertEqual(document["name"], "node-1")
        self.assertEqual((document["version"], document["pid"]), (__version__, os.getpid()))
        self.assertEqual(document["uptime_seconds"], 90)
        self.assertEqual(document["started_us"], self.rig.now_us() - 90_000_000)
        self.assertEqual(
            document["listeners"],
            [
                {
                    "endpoint": "wire:411",
                    "transport": "wire",
                    "authentication": "none",
                    "listening": True,
                    "links": 0,
                }
            ],
        )
        self.assertEqual(
            document["notes"], ["peers are believed without a proof at wire:411 (none)"]
        )
        self.assertEqual(document["links"]["by_transport"], {"wire": 0})
        self.assertEqual([one["name"] for one in document["samplers"]], ["s", "sub"])

    def test_jobs(self) -> None:
        """By job manager, with the time of its last notice."""
        apply = self.rig.plugin("a").context.apply
        for number in "12":
            apply(JobInit(job_id=number), 1)
        apply(JobExit(job_id="1"), 2)
        self.rig.clock.advance(3)
        (manager,) = self.document()["job_managers"]
        self.assertEqual(
            manager,
            {
                "name": "a",
                "plugin": "jm",
                "kind": "jobmgr",
                "state": "started",
                "failures": 0,
                "group": "plugins/jobmgr.jm.a",
                "jobs_running": 1,
                "jobs_lingering": 1,
                "notices": 3,
                "last_notice_seconds": 3,
                "rejected": {},
            },
        )
        gauges = self.document()["gauges"]
        self.assertEqual(gauges["jobs"], {"lingering": 1, "running": 1})
        self.assertEqual(gauges["sets"]["served"], 2)

    def test_stuck_subscriber(self) -> None:
        """It is named, with what waits for it, and for how long."""
        self.rig.plugin("sub").behave["job_started"] = Deferred()
        apply = self.rig.plugin("a").context.apply
        for number in "123":
            apply(JobInit(job_id=number), 1)
        self.rig.clock.advance(2)
        self.assertEqual(self.problems(), [])
        self.rig.clock.advance(300)
        (problem,) = self.problems()
        self.assertEqual(
            problem,
            "subscriber sub is stuck: it has not been done with one event for 5 min;"
            " 2 events wait for it",
        )
        (subscriber,) = self.document()["subscribers"]
        self.assertEqual((subscriber["queued"], subscriber["busy_seconds"]), (2, 302))

    def test_disk_that_refuses(self) -> None:
        """The journal, what the disk says, and how much waits."""
        journal = self.rig.daemon.core.journal

        def refuse(*_arguments: object) -> None:
            raise OSError("database or disk is full")

        file = journal._file
        file.write = file.tail.append = refuse
        self.rig.plugin("a").context.apply(JobInit(job_id="1"), 1)
        self.rig.clock.advance(1)
        document = self.document()
        (problem,) = document["problems"]
        self.assertEqual(problem["severity"], "error")
        self.assertIn("cannot be written for 1 s: database or disk is full", problem["what"])
        self.assertEqual(document["journal"]["waiting"], 1)
        self.assertEqual(document["journal"]["lag_seconds"], 1)
        del file.write, file.tail.append
        self.rig.clock.advance(RETRY_SECONDS)
        self.assertEqual(self.problems(), [])
        self.flushLoggedErrors()

    def test_what_is_past(self) -> None:
        """What was counted long ago is no problem any more; the counter stays."""
        self.rig.plugin("a").context.stats.add("rejected_syntax", 12)
        self.rig.clock.pump([300] * 3)
        (problem,) = self.problems()
        self.assertEqual(
            problem, "jobmgr.jm.a could not use 12 messages in the last 15 min: syntax 12"
        )
        self.rig.clock.pump([300] * 12)
        self.assertEqual(self.problems(), [])
        (manager,) = self.document()["job_managers"]
        self.assertEqual(manager["rejected"], {"syntax": 12})

    def test_stopped(self) -> None:
        """Nothing is left to be called when it has stopped."""
        self.successResultOf(self.rig.stop())
        self.assertEqual(self.rig.clock.getDelayedCalls(), [])

    def test_listener_that_does_not_listen(self) -> None:
        """It is named."""
        (listener,) = self.rig.daemon.listeners
        listener.stopService()
        self.assertEqual(self.problems(), ["nobody listens at wire:411"])

    def test_addresses_with_most_links(self) -> None:
        """Are named, at most five, the one with the most first."""
        site = self.rig.daemon.site
        for number, count in enumerate((1, 3, 2, 1, 1, 1)):
            for port in range(count):
                site.link_opened(FakeLink(f"10.0.0.{number}:{port}"))
        top = self.document()["links"]["top_addresses"]
        self.assertEqual(top[:2], [["10.0.0.1", 3], ["10.0.0.2", 2]])
        self.assertEqual(len(top), 5)


class PartsTests(SynchronousTestCase):
    """Small parts of the document."""

    def test_hosts(self) -> None:
        """An address without the port or process, which are new with every connection."""
        for address, host in (
            ("10.0.0.7:41234", "10.0.0.7"),
            ("[fe80::1]:411", "[fe80::1]"),
            ("pid 12 of uid 1000", "uid 1000"),
            ("/run/x.sock", "/run/x.sock"),
            ("memory", "memory"),
        ):
            self.assertEqual(host_of(address), host)

    def test_process(self) -> None:
        """What the system tells of this process."""
        before = open_descriptors()
        with open("/dev/null"):
            self.assertEqual(open_descriptors(), before + 1)
        self.assertGreater(resident_bytes(), 1_000_000)
        limit = descriptor_limit()
        self.assertTrue(limit is None or limit >= before)
