"""Our notifier for Slurm: its lines, and its manners when the daemon is slow, full or not there."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.spank.harness import Daemon, Harness, compiled, decoded, missing

MISSING = missing()
ENVELOPE = ["notifier", "schema", "event", "timestamp", "timestamp_ns", "context", "data"]
MILLISECOND = 1_000_000
BUDGET = 2 * MILLISECOND
STEP = ["job_id", "step_id", "nodeid", "node"]
SIZE = ["ncpus", "nnodes", "local_tasks", "total_tasks"]


class NotifierTests(SynchronousTestCase):
    """The notifier itself, compiled with every warning on."""

    flags: tuple[str, ...] = ()
    prefix: tuple[str, ...] = ()
    connections = 1
    """How many files may be open at the end: a process keeps its connection."""
    skip = MISSING

    def setUp(self) -> None:
        """A place for the socket, and a notifier that knows of it."""
        self.daemon = Daemon()
        self.addCleanup(self.daemon.close)
        self.harness = self.start()

    def start(self, path: Path | None = None) -> Harness:
        """Another process with the notifier in it."""
        command = [*self.prefix, str(compiled(self.flags))]
        harness = Harness(command, self.daemon.path if path is None else path)
        harness.on_poll = self.daemon.serve
        self.addCleanup(self.stop, harness)
        return harness

    def stop(self, harness: Harness) -> None:
        """Nothing may be wrong with its memory, or whatever else it is watched for."""
        status, complaints = harness.close()
        self.assertEqual(status, 0, complaints)
        self.check_complaints(complaints)

    def check_complaints(self, complaints: str) -> None:
        """What a tool that watches the notifier has told."""
        self.assertEqual(complaints, "")

    def call(self, *names: str) -> None:
        """Have callbacks called; every one of them must succeed."""
        for name in names:
            self.assertEqual(self.harness.run(f"call {name}"), 0, name)

    def events(self) -> list[str]:
        """The events that the daemon has got through the socket."""
        return [line["event"] for line in decoded(self.daemon.lines)]

    def spooled(self) -> list[str]:
        """Those in the spool."""
        return [line["event"] for line in decoded(self.daemon.spooled())]

    def a_step(self) -> None:
        """A step of one task, from its beginning to its end."""
        self.harness.step()
        self.call("init", "init_post_opt")
        self.harness.task()
        self.call("task_post_fork")
        self.harness.run("item S_TASK_EXIT_STATUS 768")
        self.call("task_exit", "exit")

    # -- lines ---------------------------------------------------------------------------------

    def test_lines_of_a_step(self) -> None:
        """A step gives its four events in order, each with exactly what is known of it."""
        self.daemon.listen()
        self.harness.run("realtime 1795396663840413648")
        for variable in (
            *("SLURM_JOB_PARTITION=main", "SLURM_JOB_ACCOUNT=acc", "SLURM_JOB_USER=ada"),
            *("SLURM_JOB_NAME=true", "SLURM_RESTART_COUNT=2", "WORKFLOW_ID=w1"),
            *('SUBSCRIBER_DATA= {"k": [1, -2.5e+3, true, null, "\\u00e4"]} ', "HOME=/"),
        ):
            self.harness.run(f"job {variable}")
        self.a_step()
        self.daemon.take()
        lines = decoded(self.daemon.lines)
        self.assertEqual(
            [line["event"] for line in lines],
            ["step_init", "task_init_priv", "task_exit", "step_exit"],
        )
        for number, line in enumerate(lines, 1):
            self.assertEqual(list(line), ENVELOPE)
            self.assertEqual(list(line["notifier"]), ["boot", "pid", "start", "seq"])
            self.assertEqual(line["notifier"]["seq"], number)
            self.assertEqual(line["notifier"]["pid"], self.harness.pid)
            self.assertEqual(line["timestamp"], 1795396663)
            self.assertEqual(line["timestamp_ns"], 1795396663840413648)
            self.assertEqual(line["context"], "n1(slurmstepd),7,0")
        begun, started, ended, finished = [line["data"] for line in lines]
        self.assertEqual(
            list(begun),
            [
                *(*STEP, "alloc_mb", *SIZE, "uid", "gid", "partition", "account"),
                *("job_user", "job_name", "subscriber_data", "workflow_id"),
            ],
        )
        task = ["task_id", "task_global_id", "task_pid"]
        self.assertEqual(list(started), [*STEP, *task, "uid", "gid", *SIZE, "workflow_id"])
        self.assertEqual(list(ended), [*STEP, *task, "task_exit_status", "workflow_id"])
        self.assertEqual(list(finished), [*STEP, "workflow_id"])
        self.assertEqual(begun["subscriber_data"], {"k": [1, -2500.0, True, None, "ä"]})
        self.assertEqual(
            [begun[key] for key in ("job_id", "nodeid", "node", "alloc_mb", "ncpus", "nnodes")],
            [7, 1, "n1", 512, 4, 2],
        )
        self.assertEqual([begun["local_tasks"], begun["total_tasks"]], [1, 2])
        self.assertEqual([begun["uid"], begun["gid"]], [1000, 100])
        self.assertEqual([started[key] for key in task], [0, 10, 5000])
        self.assertEqual(ended["task_exit_status"], 768)

    def test_identity_is_of_this_process(self) -> None:
        """Boot id and start time are the kernel's, so that a pid that comes again is another."""
        self.daemon.listen()
        self.harness.step()
        self.call("init_post_opt")
        (line,) = decoded(self.daemon.take())
        stat = Path(f"/proc/{self.harness.pid}/stat").read_text("utf-8")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip()
        self.assertEqual(line["notifier"]["start"], int(stat.rpartition(")")[2].split()[19]))
        self.assertEqual(line["notifier"]["boot"], boot)

    def test_lines_of_prolog_and_epilog(self) -> None:
        """What there are no items for comes from the environment; the exit status is raw."""
        self.daemon.listen()
        self.harness.script()
        for variable in (
            *("SLURM_JOB_NUM_NODES=3", "SLURM_JOB_NTASKS=6", "SLURM_JOB_RESTART_COUNT=0"),
            *("SLURM_JOB_PARTITION=main", "SLURM_JOB_USER=ada", "SPANK_WORKFLOW_ID=w1"),
            *("SLURM_ARRAY_JOB_ID=5", "SLURM_ARRAY_TASK_ID=0", "SLURM_HET_JOB_ID=6"),
            "SLURM_JOB_EXIT_CODE=768",
        ):
            self.harness.run(f"own {variable}")
        self.call("job_prolog", "job_epilog")
        begun, ended = decoded(self.daemon.lines)
        self.assertEqual([begun["event"], ended["event"]], ["init", "exit"])
        self.assertEqual(begun["schema"], "slurm_job_data")
        self.assertEqual(begun["context"], "n1(prolog),7,0")
        self.assertEqual(ended["context"], "n1(epilog),7,0")
        self.assertEqual(
            begun["data"],
            {
                **{"job_id": 7, "node": "n1", "uid": 1000, "gid": 100, "nnodes": 3},
                **{"total_tasks": 6, "array_job_id": 5, "array_task_id": 0, "het_job_id": 6},
                **{"restart_count": 0, "partition": "main", "job_user": "ada"},
                "workflow_id": "w1",
            },
        )
        self.assertEqual(
            ended["data"],
            {
                **{"job_id": 7, "node": "n1", "uid": 1000, "gid": 100, "job_exit_status": 768},
                **{"partition": "main", "job_user": "ada", "workflow_id": "w1"},
            },
        )

    def test_what_is_not_known_is_left_out(self) -> None:
        """Neither 0 nor null stands for something that Slurm does not tell."""
        self.daemon.listen()
        self.harness.run("context script")
        self.harness.run("item S_JOB_ID 7")
        self.harness.run("own SLURM_JOB_EXIT_CODE=4294967294")
        self.call("job_prolog", "job_epilog")
        self.assertEqual(
            [line["data"] for line in decoded(self.daemon.lines)], [{"job_id": 7, "node": "n1"}] * 2
        )

    def test_array_and_components(self) -> None:
        """Steps know their array task, and their place among a job's components if that is true."""
        self.daemon.listen()
        self.harness.step()
        self.harness.run("item S_JOB_ARRAY_ID 5")
        self.harness.run("item S_JOB_ARRAY_TASK_ID 0")
        self.harness.run("job SLURM_HET_SIZE=2")
        self.harness.run("job SLURM_JOB_ID_HET_GROUP_0=6")
        self.harness.run("job SLURM_JOB_ID_HET_GROUP_1=7")
        self.call("init_post_opt")
        self.harness.run("item S_JOB_ID 8")
        self.call("init_post_opt")
        inside, inherited = [line["data"] for line in decoded(self.daemon.take())]
        self.assertEqual([inside["array_job_id"], inside["array_task_id"]], [5, 0])
        self.assertEqual([inside["het_job_id"], inside["het_job_offset"]], [6, 1])
        self.assertNotIn("het_job_id", inherited)

    def test_node_name_of_the_process_not_of_the_job(self) -> None:
        """A job's environment may name the node from which it was submitted."""
        self.daemon.listen()
        self.harness.step()
        self.harness.run("job SLURMD_NODENAME=elsewhere")
        self.call("init_post_opt")
        self.assertEqual(decoded(self.daemon.take())[0]["data"]["node"], "n1")

    def test_steps_of_slurm_are_not_told(self) -> None:
        """Batch script, external and interactive step are no steps of the user."""
        self.daemon.listen()
        for step in (0xFFFF_FFFB, 0xFFFF_FFFC, 0xFFFF_FFFA, 0xFFFF_FFF0):
            self.harness.step(step=step)
            self.call("init", "init_post_opt", "task_post_fork", "task_exit", "exit")
        for context in ("srun", "sbatch", "slurmd"):
            self.harness.run(f"context {context}")
            self.call("init", "init_post_opt", "exit")
        self.daemon.take()
        self.assertEqual(self.daemon.lines, [])
        self.assertEqual(self.daemon.spooled(), [])

    def test_workflow_id_at_submission(self) -> None:
        """It is passed on, so that prolog and epilog have it."""
        self.harness.run("own WORKFLOW_ID=w1")
        for context in ("srun", "sbatch"):
            self.harness.run(f"context {context}")
            self.call("init_post_opt")
        self.assertEqual(self.harness.said, ["job control WORKFLOW_ID=w1"] * 2)

    # -- hostile values ------------------------------------------------------------------------

    def line_of(self, name: bytes) -> dict[str, object]:
        """What the daemon gets of a job that is called that."""
        self.daemon.listen()
        self.harness.step()
        self.harness.run(b"job SLURM_JOB_NAME=" + name)
        self.call("init_post_opt")
        (line,) = self.daemon.take()
        self.assertLessEqual(len(line), 8192)
        self.assertNotIn(b"\n", line[:-1])
        data = decoded([line])[0]["data"]
        assert isinstance(data, dict)
        return data

    def test_every_byte_in_a_name(self) -> None:
        """Quotes, backslashes, control characters and what is no UTF-8 keep the line valid."""
        name = bytes(range(1, 256))
        data = self.line_of(b"".join(b"\\x%02x" % byte for byte in name))
        self.assertEqual(data["job_name"], name.decode("utf-8", "replace"))

    def test_broken_characters_in_a_name(self) -> None:
        """Each longest beginning of a character counts as one, as Python has it."""
        name = "ä€😀".encode()
        for cut in range(1, len(name)):
            name += "ä€😀".encode()[:cut] + b"x"
        name += b"\xed\xa0\x80\xf4\x90\x80\x80\xc0\xaf\xe0\x80\x80\xf0\x80\x80\x80\xfe\xf1\x80"
        data = self.line_of(b"".join(b"\\x%02x" % byte for byte in name))
        self.assertEqual(data["job_name"], name.decode("utf-8", "replace"))

    def test_long_names(self) -> None:
        """What is too long ends at a whole character, and all at once still fit into a line."""
        longest = "\\x01" * 4096
        for variable in ("SLURM_JOB_PARTITION", "SLURM_JOB_ACCOUNT", "SLURM_JOB_USER"):
            self.harness.run(f"job {variable}={longest}")
        self.harness.run(f"job WORKFLOW_ID={longest}")
        subscriber_data = json.dumps({"k": "x" * 1014})
        self.assertEqual(len(subscriber_data), 1023)
        self.harness.run(f"job SUBSCRIBER_DATA={subscriber_data}")
        data = self.line_of("x€".encode() * 1000)
        self.assertEqual(data["job_name"], "x€" * 256)
        self.assertEqual(data["account"], "\x01" * (256 // 6))
        self.assertEqual(data["workflow_id"], "\x01" * (1023 // 6))
        self.assertEqual(data["subscriber_data"], json.loads(subscriber_data))

    def test_subscriber_data_is_an_object_or_nothing(self) -> None:
        """Whatever is not one valid object of at most 1023 bytes is left out."""
        wrong = (
            *("", "{", "}", "[]", "1", "null", '"x"', "{}{}", "{} x", "{1:2}", '{"a"}', '{"a":}'),
            *('{"a":1,}', '{"a":01}', '{"a":1.}', '{"a":1e}', '{"a":-}', '{"a":+1}', '{"a":tru}'),
            *('{"a":[1,]}', '{"a":[1}', '{"a":"\\x01"}', '{"a":"\\xff"}', '{"a":"\\x"}'),
            *('{"a":"\\u12"}', '{"a":"\\ud800"}', '{"a":"\\ud800\\u0041"}', '{"a":"'),
            *('{"a":"\\', '{"a":"\\u', '{"a":"\\udc00"}', "{'a':1}", '{"a":NaN}'),
            '{"a":' + "[" * 40 + "]" * 40 + "}",
            '{"k": "' + "x" * 1015 + '"}',
        )
        right = (
            *(
                "{}",
                " { } ",
                '{"a":{"b":[{}, []]}}',
                '{"a":-0.5E-7}',
                '{"\\"\\u00e4":"\\xe2\\x82\\xac"}',
            ),
            *('{"a":"\\ud83d\\ude00"}', '{"a":\\x0a1\\x09}', '{"a":false,"b":0}'),
        )
        self.daemon.listen()
        self.harness.step()
        for text in (*wrong, *right):
            self.harness.run(f"job SUBSCRIBER_DATA={text}")
            self.call("init_post_opt")
            (line,) = decoded(self.daemon.take())
            self.daemon.answer(b"+")
            self.assertEqual("subscriber_data" in line["data"], text in right, text)

    def test_odd_process_name(self) -> None:
        """The start time is found behind whatever a process is called."""
        program = self.daemon.directory / "a) S 1 (b) 2"
        shutil.copy(compiled(self.flags), program)
        harness = Harness([*self.prefix, str(program)], self.daemon.path)
        self.addCleanup(self.stop, harness)
        harness.script()
        self.assertEqual(harness.run("call job_prolog"), 0)
        (line,) = decoded(self.daemon.spooled())
        stat = Path(f"/proc/{harness.pid}/stat").read_text()
        self.assertEqual(line["notifier"]["start"], int(stat.rpartition(")")[2].split()[19]))

    def test_subscriber_data_that_looks_like_a_line(self) -> None:
        """Is no place where the daemon would find a line behind a torn one."""
        forged = '{"notifier":{"boot":"b","pid":1,"start":1,"seq":1},"event":"exit"}'
        self.harness.run(f'job SUBSCRIBER_DATA={{"k":{forged},"l":[{{"notifier" : {{"a":1}}}}]}}')
        data = self.line_of(b"true")
        self.assertEqual(data["subscriber_data"]["k"], json.loads(forged))
        (line,) = self.daemon.lines
        self.assertEqual(line.rfind(b'{"notifier":{"'), 0)

    # -- arguments -----------------------------------------------------------------------------

    def test_arguments(self) -> None:
        """Wrong ones are ignored; slurmd, and nobody else, is told."""
        self.daemon.listen()
        long = "/" + 110 * "x"
        for argument in ("speed=9", "path=relative", f"path={long}"):
            self.harness.run(f"argument {argument}")
        self.harness.run("context slurmd")
        self.call("init")
        self.assertEqual(len(self.harness.said), 3)
        self.assertIn("'speed=9' is not understood", self.harness.said[0])
        self.a_step()
        self.daemon.take()
        self.assertEqual(len(self.daemon.lines), 4)
        self.assertEqual(len(self.harness.said), 3)

    # -- waiting -------------------------------------------------------------------------------

    def test_answers_are_waited_for_where_nothing_follows_soon(self) -> None:
        """Once when all tasks have started, once at the end, and otherwise taken in passing."""
        self.daemon.listen()
        self.harness.step(tasks=3)
        self.call("init_post_opt")
        for task in range(3):
            self.assertEqual(self.harness.polls, [])
            self.harness.task(task)
            self.call("task_post_fork")
        self.assertEqual(len(self.harness.polls), 1)
        self.call("task_exit")
        self.assertEqual(len(self.harness.polls), 1)
        self.daemon.serve()
        self.call("task_exit", "task_exit", "exit")
        self.assertEqual(len(self.harness.polls), 2)
        self.assertEqual(len(self.events()), 8)
        self.assertEqual(self.spooled(), [])

    def test_silent_daemon(self) -> None:
        """What gets no answer in 2 ms is spooled, with all that follows; others are warned."""
        self.daemon.listen()
        self.harness.on_poll = lambda: "late"
        self.a_step()
        self.assertEqual(self.harness.polls, [BUDGET])
        everything = ["step_init", "task_init_priv", "task_exit", "step_exit"]
        self.assertEqual(self.spooled(), everything)
        self.assertTrue(self.daemon.file("mark").exists())
        self.daemon.take()
        self.assertEqual(self.daemon.lines, self.daemon.spooled()[:2])
        self.assertEqual(self.daemon.file("spool").stat().st_mode & 0o777, 0o600)

    def test_waiting_is_limited_for_the_whole_process(self) -> None:
        """Each wait takes from the same 2 ms, however often there are answers."""
        self.daemon.listen()

        def slowly() -> str:
            self.daemon.serve()
            return f"after {MILLISECOND // 2 + 1}"

        self.harness.on_poll = slowly
        self.harness.script()
        self.call(*["job_prolog"] * 6)
        used = MILLISECOND // 2 + 1
        self.assertEqual(self.harness.polls, [BUDGET - i * used for i in range(4)])
        self.assertEqual(len(self.daemon.spooled()), 2)
        self.assertTrue(self.daemon.file("mark").exists())

    def test_waking_up_for_nothing(self) -> None:
        """Answers to some of the lines are not enough, and do not give more time."""
        self.daemon.listen()

        def one_answer() -> str:
            self.daemon.take()
            if len(self.harness.polls) == 1:
                self.daemon.answer(b"+")
            return f"after {MILLISECOND}"

        self.harness.on_poll = one_answer
        self.harness.step()
        self.call("init_post_opt", "task_post_fork")
        self.assertEqual(self.harness.polls, [BUDGET, MILLISECOND])
        self.assertEqual(self.spooled(), ["task_init_priv"])

    def test_refused_lines_are_done(self) -> None:
        """What the daemon does not want is not offered again."""
        self.daemon.listen()

        def refuse() -> str:
            self.daemon.take()
            self.daemon.answer(b"-")
            return "after 0"

        self.harness.on_poll = refuse
        self.harness.script()
        self.call("job_prolog")
        self.assertEqual(self.events(), ["init"])
        self.assertEqual(self.spooled(), [])

    def test_strange_answers(self) -> None:
        """Whoever answers something else is no daemon of ours: its lines are spooled."""
        self.daemon.listen()

        def strange() -> str:
            self.daemon.take()
            self.daemon.answer(b"+?")
            return "after 0"

        self.harness.on_poll = strange
        self.a_step()
        self.assertEqual(self.spooled(), ["task_init_priv", "task_exit", "step_exit"])
        self.assertFalse(self.daemon.file("mark").exists())

    # -- nobody there --------------------------------------------------------------------------

    def test_nothing_stays_open(self) -> None:
        """Neither the end of a step, nor a prolog, leaves the connection open."""
        self.daemon.listen()
        files = Path(f"/proc/{self.harness.pid}/fd")
        before = sorted(file.name for file in files.iterdir())
        self.a_step()
        self.assertEqual(sorted(file.name for file in files.iterdir()), before)
        self.harness.script()
        self.call("job_prolog", "job_epilog")
        self.assertEqual(sorted(file.name for file in files.iterdir()), before)

    def test_no_daemon(self) -> None:
        """Lines are spooled at once, into a directory that is made if need be."""
        deeper = self.daemon.directory / "run" / "n.sock"
        harness = self.start(deeper)
        harness.script()
        self.assertEqual(harness.run("call job_prolog"), 0)
        self.assertEqual(harness.polls, [])
        self.assertEqual(len(Path(f"{deeper}.spool").read_bytes().splitlines()), 1)
        self.assertFalse(Path(f"{deeper}.mark").exists())
        self.assertEqual(deeper.parent.stat().st_mode & 0o777, 0o700)

    def test_refused_connection(self) -> None:
        """A socket that nobody listens to any more is as none."""
        self.daemon.listen()
        self.daemon.close()
        self.daemon.directory.mkdir()
        self.a_step()
        self.assertEqual(len(self.spooled()), 4)
        self.assertEqual(self.harness.polls, [])

    def test_crowded_daemon(self) -> None:
        """Nobody waits to be accepted."""
        self.daemon.listen(backlog=0)
        crowd = [self.start() for _ in range(3)]
        for harness in crowd:
            harness.step()
            self.assertEqual(harness.run("call init_post_opt"), 0)
            self.assertEqual(harness.polls, [])
        self.daemon.take()
        self.assertEqual(len(self.daemon.lines) + len(self.daemon.spooled()), 3)
        self.assertGreaterEqual(len(self.daemon.spooled()), 1)

    def test_daemon_that_ends(self) -> None:
        """Lines without answer and all later ones are spooled; SIGPIPE kills nobody."""
        self.daemon.listen()
        self.harness.step()
        self.call("init_post_opt")
        self.daemon.serve()
        self.harness.task()

        def end() -> str:
            self.daemon.hang_up()
            return "after 0"

        self.harness.on_poll = end
        self.call("task_post_fork")
        self.assertEqual(self.spooled(), ["task_init_priv"])
        self.call("task_exit", "exit")
        self.assertEqual(self.spooled(), ["task_init_priv", "task_exit", "step_exit"])
        self.assertEqual(len(self.harness.polls), 1)

    def test_daemon_that_has_ended_between_events(self) -> None:
        """The next event finds that out, and spools what had no answer, in order."""
        self.daemon.listen()
        self.harness.step()
        self.call("init_post_opt")
        self.daemon.take()
        self.daemon.hang_up()
        self.call("task_post_fork")
        self.assertEqual(self.spooled(), ["step_init", "task_init_priv"])

    def test_daemon_that_reads_no_more(self) -> None:
        """Writing to it is an error, not a signal."""
        self.daemon.listen()
        self.harness.step()
        self.call("init_post_opt")
        self.daemon.take()
        self.daemon.stop_reading()
        self.call("task_post_fork")
        self.assertEqual(self.spooled(), ["step_init", "task_init_priv"])

    def test_many_lines_without_answer(self) -> None:
        """When no more can be kept, waiting begins, and then spooling from the oldest on."""
        self.daemon.listen()
        self.harness.step(tasks=1000)
        self.harness.on_poll = lambda: "late"
        while not self.harness.polls:
            self.call("task_post_fork")
        self.call("exit")
        self.assertEqual(self.harness.polls, [BUDGET])
        sequence = [line["notifier"]["seq"] for line in decoded(self.daemon.spooled())]
        self.assertGreater(len(sequence), 64)
        self.assertEqual(sequence, list(range(1, len(sequence) + 1)))

    # -- mark ----------------------------------------------------------------------------------

    def marked(self, age: float) -> None:
        """A step while others ran out of time that many seconds ago."""
        self.daemon.listen()
        mark = self.daemon.file("mark")
        mark.touch()
        now = time.time_ns()
        os.utime(mark, ns=(now, now))
        self.harness.run(f"realtime {now + int(age * 1e9)}")
        self.a_step()

    def test_young_mark(self) -> None:
        """For 5 s after somebody ran out of time nobody tries."""
        self.marked(4.999)
        self.assertEqual(len(self.daemon.spooled()), 4)
        self.assertEqual(self.harness.polls, [])
        self.assertEqual(self.daemon.take(), [])

    def test_old_mark(self) -> None:
        """After that the daemon is tried again."""
        self.marked(5)
        self.assertEqual(self.daemon.spooled(), [])
        self.daemon.take()
        self.assertEqual(len(self.daemon.lines), 4)

    def test_mark_of_the_future(self) -> None:
        """A clock that was set back does not close the socket for ever."""
        self.marked(-1)
        self.assertEqual(self.daemon.spooled(), [])

    def test_descriptors_are_not_inherited(self) -> None:
        """Neither the connection nor the spool gets to a task's program."""
        self.daemon.listen()
        self.harness.step()
        self.call("init_post_opt")
        self.assertEqual(self.inherited("socket:"), [False])
        self.daemon.serve()
        self.daemon.hang_up()
        seen: list[bool] = []

        def look() -> str:
            seen.extend(self.inherited(str(self.daemon.file("spool"))))
            return "go"

        self.harness.run("ask writes")
        self.harness.on_write = look
        self.call("exit")
        self.assertEqual(seen, [False])

    def inherited(self, target: str) -> list[bool]:
        """Of the open files that this begins the name of, whether programs would inherit them."""
        found = []
        for file in Path(f"/proc/{self.harness.pid}/fd").iterdir():
            if os.readlink(file).startswith(target):
                info = Path(f"/proc/{self.harness.pid}/fdinfo/{file.name}").read_text()
                flags = int(info.partition("flags:")[2].split()[0], 8)
                found.append(not flags & os.O_CLOEXEC)
        return found

    # -- spool ---------------------------------------------------------------------------------

    def test_full_spool(self) -> None:
        """Nothing is written beyond the limit; what is lost is counted, and told once."""
        spool, lost = self.daemon.file("spool"), self.daemon.file("lost")
        spool.touch()
        os.truncate(spool, (16 << 20) - 100)
        self.a_step()
        self.assertEqual(spool.stat().st_size, (16 << 20) - 100)
        self.assertEqual(lost.stat().st_size, 4)
        self.assertEqual(len(self.harness.said), 1)
        self.assertIn("an event was lost", self.harness.said[0])
        os.truncate(lost, 1 << 20)
        self.harness.script()
        self.call("job_epilog")
        self.assertEqual(lost.stat().st_size, 1 << 20)

    def test_limited_files(self) -> None:
        """Where files may not grow nothing is written: that would be a signal."""
        spool, lost = self.daemon.file("spool"), self.daemon.file("lost")
        for limit, counted in ((0, 0), (1, 1)):
            resource.prlimit(self.harness.pid, resource.RLIMIT_FSIZE, (limit, 1 << 30))
            self.a_step()
            self.assertEqual((spool.stat().st_size, lost.stat().st_size), (0, counted))
        resource.prlimit(self.harness.pid, resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
        self.call("exit")
        self.assertEqual(self.spooled(), ["step_exit"])

    def test_spool_that_is_no_file(self) -> None:
        """Neither a link, nor something that would hang whoever opens it, is written to."""
        spool, target = self.daemon.file("spool"), self.daemon.directory / "target"
        target.touch()
        spool.symlink_to(target)
        self.harness.script()
        self.call("job_prolog")
        self.assertEqual(target.stat().st_size, 0)
        spool.unlink()
        os.mkfifo(spool)
        self.call("job_epilog")
        self.assertEqual(self.daemon.file("lost").stat().st_size, 2)

    def test_file_of_two_names(self) -> None:
        """It may be anybody's: nothing is written to it."""
        target = self.daemon.directory / "target"
        target.touch()
        os.link(target, self.daemon.file("spool"))
        self.harness.script()
        self.call("job_prolog")
        self.assertEqual(target.stat().st_size, 0)
        self.assertEqual(self.daemon.file("lost").stat().st_size, 1)

    def test_files_belong_to_the_daemon(self) -> None:
        """Those that root makes are given to whoever has the directory; others stay as they are."""
        os.chown(self.daemon.directory, 4711, 4712)
        self.daemon.listen()
        self.daemon.file("spool").touch()
        self.harness.on_poll = lambda: "late"
        self.a_step()
        mark, spool = self.daemon.file("mark").stat(), self.daemon.file("spool").stat()
        self.assertEqual((mark.st_uid, mark.st_gid, mark.st_mode & 0o777), (4711, 4712, 0o600))
        self.assertEqual(spool.st_uid, 0)
        self.assertEqual(len(self.daemon.spooled()), 4)

    if os.geteuid() != 0:
        test_files_belong_to_the_daemon.skip = "only root can give files away"  # type: ignore[attr-defined]

    def test_nothing_can_be_written(self) -> None:
        """Not even that disturbs a job."""
        directory = self.daemon.directory / "file"
        directory.touch()
        harness = self.start(directory / "n.sock")
        harness.script()
        self.assertEqual(harness.run("call job_prolog"), 0)
        self.assertIn("lost and not counted", harness.said[0])

    def test_spool_that_is_renamed(self) -> None:
        """A line that went to a file that the daemon has already read is written again."""
        spool = self.daemon.file("spool")
        self.harness.run("ask writes")
        writes: list[int] = []

        def rename_at_first() -> str:
            writes.append(1)
            if len(writes) == 1:
                spool.rename(f"{spool}.old")
            return "go"

        self.harness.on_write = rename_at_first
        self.harness.script()
        self.call("job_prolog")
        self.assertEqual(len(writes), 2)
        self.assertEqual(Path(f"{spool}.old").read_bytes(), spool.read_bytes())
        self.assertEqual(self.spooled(), ["init"])

    def test_spool_that_is_renamed_for_ever(self) -> None:
        """There is an end to writing again; that the line may be lost is counted."""
        spool = self.daemon.file("spool")
        writes: list[int] = []

        def rename() -> str:
            writes.append(1)
            if spool.exists():
                spool.rename(f"{spool}.old")
            return "go"

        self.harness.run("ask writes")
        self.harness.on_write = rename
        self.harness.script()
        self.call("job_prolog")
        self.assertEqual(len(writes), 8 + 1)
        self.assertEqual(self.daemon.file("lost").stat().st_size, 1)

    def test_spool_that_comes_and_goes(self) -> None:
        """Another makes it while we would, and the daemon renames that before we open it."""
        spool = self.daemon.file("spool")
        opens: list[int] = []

        def disturb(name: str) -> None:
            if name != str(spool):
                return
            opens.append(1)
            if len(opens) == 2:
                spool.touch(0o600)
            elif len(opens) == 3:
                spool.rename(f"{spool}.old")

        self.harness.run("ask opens")
        self.harness.on_open = disturb
        self.harness.script()
        self.call("job_prolog")
        self.assertEqual(len(opens), 4)
        self.assertEqual(self.spooled(), ["init"])
        self.assertFalse(self.daemon.file("lost").exists())

    def test_part_of_a_line(self) -> None:
        """What follows a line that was not written whole begins on a line of its own."""
        self.harness.run("ask writes")
        answers = ["part 10", "go", "go", "go"]
        self.harness.on_write = lambda: answers.pop(0)
        self.harness.script()
        self.call("job_prolog", "job_epilog")
        partial, whole = self.daemon.spooled()
        self.assertEqual(len(partial), 11)
        self.assertEqual(decoded([whole])[0]["event"], "exit")
        self.assertEqual(self.daemon.file("lost").stat().st_size, 1)

    def test_part_of_a_line_and_nothing_more(self) -> None:
        """The same when the disk takes the end of the line only later."""
        self.harness.run("ask writes")
        full = f"fail {errno.ENOSPC}"
        answers = ["part 10", full, full, "go", "go"]
        self.harness.on_write = lambda: answers.pop(0)
        self.harness.script()
        self.call("job_prolog", "job_epilog")
        partial, whole = self.daemon.spooled()
        self.assertEqual(len(partial), 11)
        self.assertEqual(decoded([whole])[0]["event"], "exit")

    # -- forks ---------------------------------------------------------------------------------

    def test_fork(self) -> None:
        """A child is another process: its own connection, sequence and time, nothing twice."""
        self.daemon.listen()
        self.harness.on_poll = lambda: "late"
        self.harness.step()
        self.call("init_post_opt")
        self.harness.run("fork")
        self.harness.on_poll = self.daemon.serve
        self.call("exit")
        self.assertEqual(self.harness.run("leave"), 0)
        self.call("exit")
        lines = decoded(self.daemon.lines)
        self.assertEqual(
            sorted((line["event"], line["notifier"]["seq"]) for line in lines),
            [("step_exit", 1), ("step_exit", 2), ("step_init", 1)],
        )
        self.assertEqual(len({line["notifier"]["pid"] for line in lines}), 2)
        self.assertEqual(self.spooled(), [])
