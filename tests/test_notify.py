"""``ldmsjob notify``: job starts and ends from Slurm's Prolog and Epilog scripts."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from ldmsjob import notify
from ldmsjob.cli.main import main
from tests import test_spank
from tests.spank.harness import Daemon, Harness, compiled, decoded

ENVIRONMENT = {
    **{"SLURM_JOB_ID": "7", "SLURM_JOB_UID": "1000", "SLURM_JOB_GID": "100"},
    **{"SLURMD_NODENAME": "n1", "SLURM_JOB_PARTITION": "main", "SLURM_JOB_USER": "ada"},
    **{"SLURM_JOB_NUM_NODES": "3", "SLURM_JOB_NTASKS": "6", "SLURM_JOB_RESTART_COUNT": "0"},
    **{"SLURM_JOB_EXIT_CODE": "768", "SPANK_WORKFLOW_ID": 'w"1', "SLURM_JOB_ACCOUNT": "a\\\x01"},
}


class NotifyTests(SynchronousTestCase):
    """What it writes, and where."""

    def setUp(self) -> None:
        """A place for the socket, and the environment of a prolog."""
        self.daemon = Daemon()
        self.addCleanup(self.daemon.close)
        path = {"PATH": os.environ.get("PATH", os.defpath)}
        patch = mock.patch.dict(os.environ, {**ENVIRONMENT, **path}, clear=True)
        patch.start()
        self.addCleanup(patch.stop)
        self.errors: list[str] = []
        self.patch(notify, "_complain", self.errors.append)

    def notify(self, *arguments: str) -> int:
        """Run it with the socket that is here."""
        return notify.main(["--path", str(self.daemon.path), *arguments])

    def spooled(self) -> list[str]:
        """The events of the spool."""
        return [line["event"] for line in decoded(self.daemon.spooled())]

    def answered(self, answer: bytes) -> None:
        """Have the daemon give that answer when it is waited for."""

        class Poll:
            def register(self, file: int, events: int) -> None:
                pass

            def poll(poll, limit: int) -> list[object]:  # noqa: N805
                self.assertEqual(limit, 2)
                self.daemon.take()
                if answer:
                    self.daemon.answer(answer)
                return [answer] if answer else []

        self.daemon.listen()
        self.patch(notify, "poll", Poll)

    # -- lines ---------------------------------------------------------------------------------

    def test_envelope(self) -> None:
        """It is that of the plugin; the context tells that a script has sent it."""
        line = json.loads(notify.line_of("init", os.environb))
        self.assertEqual(list(line), test_spank.ENVELOPE)
        self.assertEqual(list(line["notifier"]), ["boot", "pid", "start", "seq"])
        self.assertEqual([line["notifier"]["pid"], line["notifier"]["seq"]], [os.getpid(), 1])
        self.assertEqual(line["schema"], "slurm_job_data")
        self.assertEqual(line["context"], "n1(script),7,0")
        self.assertEqual(line["timestamp"], line["timestamp_ns"] // 10**9)
        self.assertLess(abs(line["timestamp"] - time.time()), 60)

    def test_same_as_the_plugin(self) -> None:
        """``data`` is, byte for byte, what the plugin makes of the same environment."""
        more = {
            **{"SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "0", "SLURM_HET_JOB_ID": "6"},
            **{"SLURM_HET_JOB_OFFSET": "1", "SLURM_JOB_NAME": "x€" * 1000},
        }
        odd = {
            **{"SLURM_JOB_RESTART_COUNT": "", "SLURM_JOB_NTASKS": "0", "SLURM_JOB_ACCOUNT": ""},
            **{"SLURM_JOB_EXIT_CODE": "4294967294", "SLURM_JOB_NUM_NODES": "many"},
            **{
                "SLURM_JOB_NAME": os.fsdecode(bytes(range(1, 256))),
                "SPANK_WORKFLOW_ID": "\\" * 600,
            },
        }
        for changes in ({}, more, odd):
            os.environ.update(changes)
            daemon = Daemon()
            self.addCleanup(daemon.close)
            daemon.listen()
            harness = Harness([str(compiled(()))], daemon.path)
            harness.on_poll = daemon.serve
            harness.script()
            for name, value in os.environb.items():
                escaped = b"".join(b"\\x%02x" % byte for byte in value)
                harness.run(b"own " + name + b"=" + escaped)
            for callback, event in (("job_prolog", "init"), ("job_epilog", "exit")):
                self.assertEqual(harness.run(f"call {callback}"), 0)
                theirs = daemon.lines[-1].partition(b'"data":')[2]
                ours = notify.line_of(event, os.environb).partition(b'"data":')[2]
                self.assertEqual(ours, theirs)
            harness.close()

    if test_spank.MISSING:
        test_same_as_the_plugin.skip = test_spank.MISSING  # type: ignore[attr-defined]

    def test_environment_without_a_node(self) -> None:
        """The host's name stands for the node's when Slurm gives none."""
        del os.environ["SLURMD_NODENAME"]
        line = json.loads(notify.line_of("init", os.environb))
        self.assertEqual(line["data"]["node"], os.uname().nodename)

    # -- to the daemon -------------------------------------------------------------------------

    def test_answered(self) -> None:
        """A line that is answered is done, also one that the daemon refuses."""
        self.answered(b"+")
        self.assertEqual(self.notify("start"), 0)
        self.assertEqual(len(self.daemon.lines), 1)
        self.assertEqual(self.spooled(), [])

    def test_refused(self) -> None:
        """What the daemon does not want is not offered again."""
        self.answered(b"-")
        self.notify("end")
        self.assertEqual(self.spooled(), [])

    def test_silent(self) -> None:
        """What is not answered in 2 ms is spooled, and others are warned."""
        self.answered(b"")
        self.assertEqual(self.notify("end"), 0)
        self.assertEqual(self.spooled(), ["exit"])
        self.assertTrue(self.daemon.file("mark").exists())
        self.assertEqual(self.daemon.file("spool").stat().st_mode & 0o777, 0o600)

    def test_strange_answer(self) -> None:
        """Whoever answers something else is no daemon of ours."""
        self.answered(b"?")
        self.notify("start")
        self.assertEqual(self.spooled(), ["init"])
        self.assertFalse(self.daemon.file("mark").exists())

    def test_nobody_there(self) -> None:
        """Spooled at once, into a directory that is made if need be."""
        deeper = self.daemon.directory / "run" / "n.sock"
        self.assertEqual(notify.main([f"--path={deeper}", "start"]), 0)
        self.assertEqual(len(Path(f"{deeper}.spool").read_bytes().splitlines()), 1)
        self.assertEqual(deeper.parent.stat().st_mode & 0o777, 0o700)

    def test_young_and_old_mark(self) -> None:
        """For 5 s after somebody ran out of time nobody tries."""
        self.answered(b"+")
        self.daemon.file("mark").touch()
        marked = self.daemon.file("mark").stat().st_mtime
        for age, tried in ((4.9, 0), (5.1, 1), (-1.0, 2)):
            with mock.patch.object(notify.time, "time", return_value=marked + age):
                self.notify("start")
            self.daemon.take()
            self.assertEqual(len(self.daemon.lines), tried)

    def test_full_spool(self) -> None:
        """Nothing is written beyond the limit; what is lost is counted and told."""
        spool = self.daemon.file("spool")
        spool.touch()
        os.truncate(spool, 16 << 20)
        self.assertEqual(self.notify("start"), 0)
        self.assertEqual(spool.stat().st_size, 16 << 20)
        self.assertEqual(self.daemon.file("lost").stat().st_size, 1)
        self.assertIn("an event was lost", self.errors[0])

    def test_spool_that_is_no_file(self) -> None:
        """Neither a link, nor something that would hang whoever opens it, is written to."""
        spool, target = self.daemon.file("spool"), self.daemon.directory / "target"
        target.touch()
        spool.symlink_to(target)
        self.notify("start")
        self.assertEqual(target.stat().st_size, 0)
        spool.unlink()
        os.mkfifo(spool)
        reader = os.open(spool, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        self.notify("end")
        self.assertEqual(self.daemon.file("lost").stat().st_size, 2)

    def test_file_of_two_names(self) -> None:
        """It may be anybody's: nothing is written to it."""
        target = self.daemon.directory / "target"
        target.touch()
        os.link(target, self.daemon.file("spool"))
        self.notify("start")
        self.assertEqual(target.stat().st_size, 0)
        self.assertEqual(self.daemon.file("lost").stat().st_size, 1)

    def test_files_belong_to_the_daemon(self) -> None:
        """What root makes is given to whoever has the directory."""
        os.chown(self.daemon.directory, 4711, 4712)
        self.notify("start")
        spool = self.daemon.file("spool").stat()
        self.assertEqual((spool.st_uid, spool.st_gid, spool.st_mode & 0o777), (4711, 4712, 0o600))

    if os.geteuid() != 0:
        test_files_belong_to_the_daemon.skip = "only root can give files away"  # type: ignore[attr-defined]

    def test_spool_that_is_renamed(self) -> None:
        """A line that went to a file that the daemon has already read is written again."""
        spool = self.daemon.file("spool")
        write = os.write

        def rename_first(file: int, data: bytes) -> int:
            if not Path(f"{spool}.old").exists():
                spool.rename(f"{spool}.old")
            return write(file, data)

        self.patch(os, "write", rename_first)
        self.notify("start")
        self.assertEqual(Path(f"{spool}.old").read_bytes(), spool.read_bytes())

    def test_spool_that_is_renamed_for_ever(self) -> None:
        """There is an end to writing again; that the line may be lost is counted."""
        spool = self.daemon.file("spool")
        write = os.write

        def rename(file: int, data: bytes) -> int:
            if spool.exists():
                spool.rename(f"{spool}.old")
            return write(file, data)

        self.patch(os, "write", rename)
        self.notify("start")
        self.assertEqual(self.daemon.file("lost").stat().st_size, 1)

    def test_spool_that_comes_and_goes(self) -> None:
        """Another makes it while we would, and the daemon renames that before we open it."""
        spool = self.daemon.file("spool")
        opened: list[int] = []
        real = os.open

        def disturb(name: str, flags: int, mode: int = 0) -> int:
            if name == str(spool):
                opened.append(flags & os.O_CREAT)
                if len(opened) == 2:
                    os.close(real(name, flags, mode))
                elif len(opened) == 3:
                    spool.rename(f"{spool}.old")
            return real(name, flags, mode)

        with mock.patch.object(os, "open", disturb):
            self.notify("start")
        self.assertEqual(opened, [0, os.O_CREAT, 0, os.O_CREAT])
        self.assertEqual(len(self.daemon.spooled()), 1)
        self.assertFalse(self.daemon.file("lost").exists())

    def test_file_that_neither_exists_nor_can_be_made(self) -> None:
        """There is an end to looking again; the line is counted."""
        real = os.open

        def contradict(name: str, flags: int, mode: int = 0) -> int:
            if name.endswith(".spool"):
                raise FileExistsError if flags & os.O_CREAT else FileNotFoundError
            return real(name, flags, mode)

        with mock.patch.object(os, "open", contradict):
            self.notify("start")
        self.assertEqual(self.daemon.file("lost").stat().st_size, 1)

    def test_part_of_a_line(self) -> None:
        """What follows a line that was not written whole begins on a line of its own."""
        write = os.write
        with mock.patch.object(os, "write", lambda file, data: write(file, data[:10])):
            self.notify("start")
        self.notify("end")
        partial, whole = self.daemon.spooled()
        self.assertEqual(len(partial), 11)
        self.assertEqual(decoded([whole])[0]["event"], "exit")

    # -- the command ---------------------------------------------------------------------------

    def test_context_of_the_script(self) -> None:
        """Without a word, Prolog is a start and Epilog an end; on the controller it is neither."""
        for context in ("prolog_slurmd", "epilog_slurmd", "prolog_slurmctld", "prolog_task"):
            os.environ["SLURM_SCRIPT_CONTEXT"] = context
            self.assertEqual(self.notify(), 0)
        self.assertEqual(self.spooled(), ["init", "exit"])
        self.assertEqual(len(self.errors), 2)
        self.assertIn("'prolog_slurmctld' is neither", self.errors[0])

    def test_mistakes_do_not_drain_the_node(self) -> None:
        """Inside of Slurm the status is 0, and the event is sent all the same."""
        self.assertEqual(self.notify("start", "--colour"), 0)
        self.assertEqual(self.spooled(), ["init"])
        self.assertIn("'--colour' is not understood", self.errors[0])
        self.assertEqual(notify._arguments(["--path", "relative"]), (notify.DEFAULT_PATH, ""))

    def test_faults_do_not_drain_the_node(self) -> None:
        """Nor does a defect."""
        self.patch(notify, "line_of", lambda *_: 1 / 0)
        self.assertEqual(self.notify("start"), 0)
        self.assertIn("ZeroDivisionError", self.errors[0])

    def test_outside_of_slurm(self) -> None:
        """There it is a mistake to call it."""
        del os.environ["SLURM_JOB_ID"]
        self.assertEqual(main(["notify", "start"]), 2)
        self.assertIn("SLURM_JOB_ID", self.errors[0])
        self.assertEqual(self.spooled(), [])

    def test_command_for_scripts(self) -> None:
        """What ``--script`` prints runs without the package, in an interpreter that has nothing."""
        command = subprocess.run(
            [sys.executable, notify.__file__, "--script"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        self.assertIn(" -IS ", command)
        for run in (command, f"{sys.executable} -IS {notify.__file__}"):
            result = subprocess.run(
                f"{run} --path {self.daemon.path} start",
                shell=True,
                cwd="/",
                env=ENVIRONMENT,
                capture_output=True,
                text=True,
                check=True,
            )
            self.assertEqual(result.stdout + result.stderr, "")
        self.assertEqual(self.spooled(), ["init", "init"])

    def test_it_loads_little(self) -> None:
        """Every job waits for it: what costs time to import is not imported, nor is it where the
        console script comes to it."""
        file = Path(notify.__file__)
        for name, path, known in (
            ("notify", file.parent, set()),
            ("ldmsjob.cli.main", file.parent.parent, {"ldmsjob"}),
        ):
            code = (
                "import sys; before = set(sys.modules); sys.path.append(sys.argv[1]);"
                f"import {name}; print(*sys.modules.keys() - before)"
            )
            result = subprocess.run(
                [sys.executable, "-IS", "-c", code, str(path)],
                capture_output=True,
                text=True,
                check=True,
            )
            wrong = {"argparse", "json", "re", "socket", "ldmsjob", "typing", "enum", "pathlib"}
            self.assertEqual((wrong - known) & set(result.stdout.split()), set())

    def test_true_process(self) -> None:
        """A daemon that takes the line and closes has it once more in the spool."""
        listening = socket.socket(socket.AF_UNIX)
        self.addCleanup(listening.close)
        listening.bind(str(self.daemon.path))
        listening.listen()
        process = subprocess.Popen(
            [sys.executable, "-IS", notify.__file__, "--path", str(self.daemon.path), "end"],
            env=ENVIRONMENT,
        )
        link, _ = listening.accept()
        with link, link.makefile("rb") as stream:
            self.assertEqual(json.loads(stream.readline())["event"], "exit")
        self.assertEqual(process.wait(), 0)
        self.assertEqual(self.spooled(), ["exit"])
