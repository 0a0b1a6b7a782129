"""Slurm on this machine: a controller and some virtual nodes, on the loopback interface only.

Everything lies in one short-named directory, since the path of a unix socket may have no more than
107 characters, and is stopped by the ids of the processes that were started. What is started here
ends with this process, however that ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from unittest import SkipTest

from tests.ports import free_ports
from tests.real import require_real

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "salloc", "scancel", "scontrol")
SEARCHED = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"
"""Daemons lie in directories that an ordinary user's PATH does not name."""

WAIT_SECONDS = 120.0
"""How long anything may take before the test fails. Most things take less than a second."""
POLL_SECONDS = 0.02

_PR_SET_PDEATHSIG = 1

CONFIGURATION = """\
ClusterName=lab
FirstJobId={first_job}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={directory}/munge.sock
CredType=cred/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool-%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd-%n.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,bf_interval=1,sched_interval=2
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
KillWait=2
PlugStackConfig={directory}/plugstack.conf
"""
NODE = (
    "NodeName={name} NodeHostname={name} NodeAddr=127.0.0.1 Port={port} CPUs=32 RealMemory=1024\n"
)
PARTITION = "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n"


def require_slurm() -> None:
    """Skip the test unless the long tests are wanted and Slurm is here."""
    require_real()
    for program in PROGRAMS:
        if shutil.which(program, path=SEARCHED) is None:
            raise SkipTest(f"Slurm is not installed: there is no {program}")


def wait_until(
    condition: Callable[[], object], what: str | Callable[[], str], seconds: float = WAIT_SECONDS
) -> None:
    """Return as soon as the condition holds. Raises ``AssertionError`` when it does not in time,
    with ``what``, or what that then says, as its text."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            text = what() if callable(what) else what
            raise AssertionError(f"waited {seconds:g} s in vain for {text}")
        time.sleep(POLL_SECONDS)


def end_with_us() -> None:
    """In a child, before it becomes another program: let it end when its parent does."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def stop(process: subprocess.Popen[bytes], seconds: float = 60.0) -> None:
    """End a process of ours: ask first."""
    if process.poll() is None:
        process.terminate()
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Cluster:
    """Slurm with ``nodes`` nodes, called n1, n2, …, which have 32 processors each.

    ``plugstack`` is the text of its plugstack.conf. Slurm's daemons look only once, at their start,
    whether a plugin there has callbacks for prolog and epilog; its other content may change at any
    time and holds for the next step.

    ``settings`` are further lines of slurm.conf.
    """

    def __init__(self, nodes: int, plugstack: str = "", settings: str = "") -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="slurm.", dir="/tmp"))
        # Other users' jobs reach munge's socket and the configuration.
        self.directory.chmod(0o755)
        self.nodes = [f"n{number}" for number in range(1, nodes + 1)]
        self.environment = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("SLURM_", "SBATCH_", "SPANK_"))
            },
            "PATH": SEARCHED,
            "SLURM_CONF": str(self.directory / "slurm.conf"),
            # Of what runs in jobs. A job that asks for the user's locale gets warnings.
            "LC_ALL": "C",
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.set_plugstack(plugstack)
        ports = free_ports(nodes + 1)
        self._text = CONFIGURATION.format(
            host=socket.gethostname().partition(".")[0],
            port=ports[0],
            # No two clusters of one machine should have jobs of one id.
            first_job=secrets.randbelow(50_000) * 1000 + 1000,
            user=getpass.getuser(),
            directory=self.directory,
        )
        for name, port in zip(self.nodes, ports[1:], strict=True):
            self._text += NODE.format(name=name, port=port)
        self._text += PARTITION
        self.set_settings(settings)
        (self.directory / "state").mkdir()
        self.work = self.directory / "work"
        self.work.mkdir()
        # Jobs of all users write their output there.
        self.work.chmod(0o1777)

    def set_settings(self, text: str) -> None:
        """Further lines of slurm.conf. Daemons learn of them when they start."""
        self.settings = text
        (self.directory / "slurm.conf").write_text(self._text + text)

    def set_plugstack(self, text: str) -> None:
        """Which plugins the next steps load."""
        path = self.directory / "plugstack.new"
        path.write_text(text)
        path.rename(self.directory / "plugstack.conf")

    def start(self) -> None:
        """Start everything, and wait until all nodes are idle."""
        directory = self.directory
        key = directory / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(128))
        self._spawn(
            "munged",
            "munged",
            "--foreground",
            "--force",
            f"--key-file={key}",
            f"--socket={directory}/munge.sock",
            f"--pid-file={directory}/munged.pid",
            f"--log-file={directory}/munged.log",
            f"--seed-file={directory}/munge.seed",
        )
        wait_until((directory / "munge.sock").exists, lambda: f"munged; {self.logs()}")
        self._spawn("slurmctld", "slurmctld", "-D", "-i")
        for name in self.nodes:
            self.start_node(name)
        self.wait_idle()

    def start_node(self, name: str) -> None:
        """Start the slurmd of a node."""
        self._spawn(name, "slurmd", "-D", "-N", name)

    def kill_node(self, name: str) -> None:
        """``kill -9`` of a node's slurmd. Steps that run there go on."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def give_up(self, nodes: str) -> None:
        """Have the controller set nodes DOWN. Each comes back when its slurmd starts."""
        self.run("scontrol", "update", f"NodeName={nodes}", "State=DOWN", "Reason=test")

    def nodes_expression(self) -> str:
        """All nodes as Slurm writes them: n[1-4]."""
        return f"n[1-{len(self.nodes)}]"

    def stop_nodes(self) -> None:
        """End all slurmds."""
        for name in self.nodes:
            if (process := self._processes.pop(name, None)) is not None:
                stop(process)

    def restart_nodes(self, plugstack: str) -> None:
        """Start all slurmds anew, with another plugstack.conf."""
        self.stop_nodes()
        # Else the controller, which has not noticed, still has them idle before they are up again.
        self.give_up(self.nodes_expression())
        self.set_plugstack(plugstack)
        for name in self.nodes:
            self.start_node(name)
        self.wait_idle()

    def wait_idle(self) -> None:
        """Wait until all nodes answer and none has a job."""

        def idle() -> bool:
            listed = self.run("sinfo", "-h", "-N", "-o", "%N %T", check=False).stdout.split()
            return listed == [word for name in self.nodes for word in (name, "idle")]

        wait_until(idle, lambda: f"idle nodes; {self.logs()}")

    def wait_empty(self, seconds: float = WAIT_SECONDS) -> None:
        """Wait until no job is left, nor its epilog."""
        wait_until(
            lambda: not self.queue(),
            lambda: f"an empty queue; {self.run('squeue', check=False).stdout}",
            seconds,
        )

    def clear(self) -> None:
        """Cancel all jobs, and wait until they are gone."""
        listed = self.queue()
        if listed:
            self.run("scancel", *listed, check=False)
            self.wait_empty()

    def queue(self) -> list[str]:
        """The ids of all jobs that wait, run or end."""
        listed = self.run("squeue", "-h", "-o", "%A", check=False)
        return listed.stdout.split() if listed.returncode == 0 else ["?"]

    def logs(self) -> str:
        """The ends of Slurm's logs."""
        parts = []
        for path in sorted([*self.directory.glob("*.log"), *self.directory.glob("*.out")]):
            lines = path.read_text(errors="replace").splitlines()[-15:]
            parts.append("\n".join([f"--- {path.name}", *lines]))
        return "\n".join(parts)

    def run(
        self,
        *command: str,
        check: bool = True,
        environment: Mapping[str, str] = {},
        input: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of Slurm to its end. Raises ``AssertionError`` when it fails."""
        done = subprocess.run(
            command,
            check=False,
            env={**self.environment, **environment},
            cwd=self.work,
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            timeout=WAIT_SECONDS,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(command)}: {done.returncode}: {done.stderr}")
        return done

    def popen(
        self,
        *command: str,
        environment: Mapping[str, str] = {},
        **options: object,
    ) -> subprocess.Popen[str]:
        """Start a command of Slurm. Its standard streams are pipes unless ``options`` say else."""
        options = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            **options,
        }
        return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
            command,
            env={**self.environment, **environment},
            cwd=self.work,
            text=True,
            **options,
        )

    def stop(self) -> None:
        """Cancel all jobs, end all daemons, remove the directory."""
        try:
            with contextlib.suppress(AssertionError, subprocess.SubprocessError):
                if "slurmctld" in self._processes:
                    self.clear()
        finally:
            for process in reversed(list(self._processes.values())):
                stop(process)
            self._processes.clear()
            shutil.rmtree(self.directory, ignore_errors=True)

    def _spawn(self, name: str, *command: str) -> None:
        with (self.directory / f"{name}.out").open("ab") as output:
            self._processes[name] = subprocess.Popen(
                self._found(command),
                env=self.environment,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=end_with_us,  # noqa: PLW1509 it calls nothing that locks
                start_new_session=True,
            )

    @staticmethod
    def _found(command: Sequence[str]) -> list[str]:
        path = shutil.which(command[0], path=SEARCHED)
        if path is None:
            raise AssertionError(f"there is no {command[0]}")
        return [path, *command[1:]]
