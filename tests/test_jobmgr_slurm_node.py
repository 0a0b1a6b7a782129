"""What a node says of its jobs: recorded trees of /proc, trees of cgroups as Slurm makes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.jobmgr.slurm_node import NodeView, StepCgroup, read_node, tasks_of_node

TREES = Path(__file__).parent / "vectors" / "slurm-node"


def written(tree: dict[str, Any], root: Path) -> Path:
    """The tree as files below ``root``."""
    for name, content in tree["files"].items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode("latin-1"))
    return root


def recorded(name: str) -> dict[str, Any]:
    """A recorded tree."""
    return json.loads((TREES / f"{name}.json").read_text())


class Processes(SynchronousTestCase):
    """/proc, recorded on a machine with two virtual nodes."""

    def setUp(self) -> None:
        """A fresh copy of the tree."""
        self.tree = recorded("proc-two-nodes")

    def read(self, **options: Any) -> NodeView:
        """Look at the tree."""
        return read_node(written(self.tree, Path(self.mktemp())), self.tree["now_us"], **options)

    def change(self, pid: int, name: str, old: str, new: str) -> None:
        """Alter a file of a process."""
        path = f"proc/{pid}/{name}"
        self.assertIn(old, self.tree["files"][path])
        self.tree["files"][path] = self.tree["files"][path].replace(old, new)

    def test_steps(self) -> None:
        """Every step process is found, with its job, node and place in the step."""
        found = [
            (one.job_id, one.step, one.node, one.node_id, len(one.tasks))
            for one in self.read().steps
        ]
        self.assertEqual(
            sorted(found),
            [
                ("13", "0", "n1", 0, 2),
                ("13", "0", "n2", 1, 1),
                ("13", "batch", "n1", 0, 0),
                ("14", "batch", "n1", 0, 0),
                ("15", "batch", "n1", 0, 0),
            ],
        )

    def test_counts(self) -> None:
        """What the step's tasks have in their environment."""
        step = next(one for one in self.read().steps if (one.step, one.node) == ("0", "n2"))
        self.assertEqual(
            (step.uid, step.node_count, step.total_tasks, step.local_tasks), (0, 2, 3, 1)
        )
        self.assertEqual(step.step_id, 0)

    def test_tasks(self) -> None:
        """Tasks have their local id, rank, pid and exact start."""
        tasks = [task for one in self.read().steps for task in one.tasks]
        self.assertEqual(
            sorted((task.task_id, task.rank, task.pid) for task in tasks),
            [(0, 0, 25370), (0, 2, 25376), (1, 1, 25371)],
        )
        for task in tasks:
            stat = self.tree["files"][f"proc/{task.pid}/stat"]
            ticks = int(stat.rpartition(")")[2].split()[19])
            uptime = float(self.tree["files"]["proc/uptime"].split()[0])
            self.assertEqual(
                task.start_us, self.tree["now_us"] - int(uptime * 1e6) + ticks * 10_000
            )

    def test_clock_that_was_set(self) -> None:
        """Another wall clock moves all starts alike, and tells no process from itself."""
        before = self.read(pids=[25370])
        self.tree["now_us"] += 3_600_000_000
        after = self.read(pids=[25370])
        self.assertEqual(after.boot_us - before.boot_us, 3_600_000_000)
        self.assertEqual(after.alive[25370] - before.alive[25370], 3_600_000_000)
        self.assertEqual(
            [step.identity for step in after.steps], [step.identity for step in before.steps]
        )
        self.assertEqual(len({step.identity for step in after.steps}), 5)

    def test_special_steps_have_no_number(self) -> None:
        """The batch step is no step of the user's."""
        batch = next(one for one in self.read().steps if one.step == "batch")
        self.assertIsNone(batch.step_id)

    def test_asked_pids(self) -> None:
        """Only asked pids are told, and only of those that run."""
        view = self.read(pids=[25370, 999_999])
        self.assertEqual(list(view.alive), [25370])

    def test_zombie_is_gone(self) -> None:
        """A process that has ended and was not reaped does not run."""
        self.change(25370, "stat", ") S ", ") Z ")
        view = self.read(pids=[25370])
        self.assertEqual(view.alive, {})
        step = next(one for one in view.steps if (one.step, one.node) == ("0", "n1"))
        self.assertEqual([task.task_id for task in step.tasks], [1])

    def test_title_of_a_user(self) -> None:
        """Anybody can have that title; who is not trusted is not believed."""
        stepd = next(one for one in self.read().steps if one.node == "n2")
        self.change(stepd.pid, "status", "Uid:\t0", "Uid:\t1000")
        self.assertFalse([one for one in self.read().steps if one.node == "n2"])
        self.assertTrue(
            [one for one in self.read(trusted_uids=(0, 1000)).steps if one.node == "n2"]
        )

    def test_fork_of_a_step_process(self) -> None:
        """A task that is not its program yet looks like the step process and is none."""
        files = self.tree["files"]
        stepd = next(one for one in self.read().steps if one.node == "n2")
        for name in ("cmdline", "status"):
            files[f"proc/99/{name}"] = files[f"proc/{stepd.pid}/{name}"]
        files["proc/99/environ"] = ""
        stat = files[f"proc/{stepd.pid}/stat"].replace(f"{stepd.pid} (", "99 (")
        files["proc/99/stat"] = stat.replace(") S 1 ", f") S {stepd.pid} ")
        self.assertEqual(len(self.read().steps), 5)

    def test_left_behind_by_a_task(self) -> None:
        """A younger child with the environment of a task is not the task."""
        files = self.tree["files"]
        for name in ("cmdline", "status", "environ"):
            files[f"proc/99/{name}"] = files[f"proc/25370/{name}"]
        fields = files["proc/25370/stat"].split()
        fields[0], fields[21] = "99", str(int(fields[21]) + 100)
        files["proc/99/stat"] = " ".join(fields)
        step = next(one for one in self.read().steps if (one.step, one.node) == ("0", "n1"))
        self.assertEqual(sorted(task.pid for task in step.tasks), [25370, 25371])

    def test_unreadable_environment(self) -> None:
        """Without it the step is known and its tasks are not."""
        for name in list(self.tree["files"]):
            if name.endswith("environ"):
                del self.tree["files"][name]
        steps = self.read().steps
        self.assertEqual(len(steps), 5)
        self.assertEqual({(one.node, one.node_id, one.tasks) for one in steps}, {(None, None, ())})

    def test_titles(self) -> None:
        """Titles of other releases are understood, others are not."""
        for title, found in (
            ("slurmstepd: [13.4294967290]", "4294967290"),
            ("slurmstepd: [13.0+1]", "0"),
            ("slurmstepd: [13.2 stepmgr]", "2"),
            ("slurmstepd: [13.extern]", "extern"),
            ("slurmstepd: [13.interactive]", "interactive"),
            ("slurmstepd: [13:namespace]", None),
            ("/usr/sbin/slurmstepd infinity", None),
            ("/usr/sbin/slurmstepd spank prolog", None),
            ("slurmstepd: [x.0]", None),
        ):
            self.tree = recorded("proc-two-nodes")
            stepd = next(one for one in self.read().steps if one.node == "n2")
            self.tree["files"][f"proc/{stepd.pid}/cmdline"] = title + "\0\0\0"
            steps = [one.step for one in self.read().steps if one.pid == stepd.pid]
            self.assertEqual(steps, [] if found is None else [found], title)

    def test_component_of_a_heterogeneous_job(self) -> None:
        """Its environment counts through all components: what is not its own is left out."""
        for pid in (25370, 25371):
            self.change(pid, "environ", "SLURM_JOB_ID=13", "SLURM_JOB_ID=12\0SLURM_HET_SIZE=2")
        step = next(one for one in self.read().steps if (one.step, one.node) == ("0", "n1"))
        self.assertEqual((step.job_id, step.node_id, step.total_tasks), ("13", None, None))
        self.assertEqual([(one.task_id, one.rank) for one in step.tasks], [(0, None), (1, None)])

    def test_nothing_there(self) -> None:
        """Neither /proc nor cgroups: nothing is seen, nothing is raised."""
        self.assertEqual(read_node(Path(self.mktemp()), 0, [1]), NodeView())

    def test_nonsense(self) -> None:
        """Files cut short at any byte are not there or say less; nothing is raised."""
        self.tree["files"]["proc/uptime"] = "x\n"
        for length in (0, 1, 5, 20, 50, 90):
            for name in self.tree["files"]:
                if name.endswith(("/stat", "/status", "/environ")):
                    self.tree["files"][name] = recorded("proc-two-nodes")["files"][name][:length]
            self.read(pids=[25370])


class Cgroups(SynchronousTestCase):
    """Both versions, with one slurmd and with several."""

    ONE = frozenset({("41", "0"), ("41", "batch"), ("41", "extern"), ("42", "3")})
    SECOND = frozenset({("43", "0"), ("43", "batch"), ("43", "extern")})

    def check(self, name: str, expected: frozenset[tuple[str, str]]) -> None:
        """Compare the steps found in a tree."""
        tree = recorded(name)
        view = read_node(written(tree, Path(self.mktemp())), tree["now_us"])
        self.assertEqual(view.cgroups, {StepCgroup(*one) for one in expected})
        self.assertEqual(view.steps, ())

    def test_version_1(self) -> None:
        """Steps with a process in any controller's tree; empty directories do not count."""
        self.check("cgroup-v1", self.ONE)

    def test_version_1_several_slurmd(self) -> None:
        """A tree for each node."""
        self.check("cgroup-v1-multiple-slurmd", self.ONE | self.SECOND)

    def test_version_2(self) -> None:
        """Steps whose directory is populated."""
        self.check("cgroup-v2", self.ONE)

    def test_version_2_several_slurmd(self) -> None:
        """A scope for each node."""
        self.check("cgroup-v2-multiple-slurmd", self.ONE | self.SECOND)


class TaskCounts(SynchronousTestCase):
    """Slurm's short form of the tasks of each node."""

    def test_forms(self) -> None:
        """Repeated counts stand for several nodes; what is no list says nothing."""
        for text, counts in (
            ("2", [2, None]),
            ("2(x2),1", [2, 2, 1, None]),
            ("1,3(x2)", [1, 3, 3, None]),
            ("", [None]),
            ("2(x", [None]),
            ("a,1", [None]),
            ("99999999", [None]),
        ):
            self.assertEqual(
                [tasks_of_node(text, node_id) for node_id in range(len(counts))], counts, text
            )
        self.assertIsNone(tasks_of_node("2", None))
