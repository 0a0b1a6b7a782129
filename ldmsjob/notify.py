"""Tells the daemon that a job starts or ends on this node: for Prolog and Epilog of Slurm.

For sites that load no SPANK plugin. Job start and end only; steps and tasks are not seen from
there. ``ldmsjob notify`` calls this file; ``python3 -IS …/ldmsjob/notify.py`` runs it alone, in a
part of the time: so it imports little, and nothing of the package. The lines, and the rules for
waiting and for the files next to the socket, are those of the SPANK plugin. See
docs/slurm.md, Prolog and Epilog scripts.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
from select import POLLIN, poll

try:
    from _socket import AF_UNIX, MSG_DONTWAIT, SOCK_STREAM, socket  # a third of `socket`'s time
except ImportError:
    from socket import (  # type: ignore[assignment]
        AF_UNIX,
        MSG_DONTWAIT,
        SOCK_STREAM,
        socket,
    )

DEFAULT_PATH = "/run/ldmsjob/notifier.sock"
LONGEST_PATH = 107
WAIT_MS = 2
MARK_SECONDS = 5
SPOOL_LIMIT = 16 << 20
LOST_LIMIT = 1 << 20
REWRITES = 8

NAME_SIZE = 256
JOB_NAME_SIZE = 1024
WORKFLOW_SIZE = 1023
NO_VALUE = 0xFFFF_FFFE
"""What Slurm says when it has no number, or the next one."""

USAGE = f"""\
usage: ldmsjob notify [--path PATH] [start|end]
       ldmsjob notify --script

Tell the daemon of this node that a job starts or ends here. For Prolog and Epilog of Slurm: all is
taken from the environment that Slurm gives those. Without 'start' or 'end', Prolog means the one
and Epilog the other.

  --path PATH  the socket of the daemon ({DEFAULT_PATH})
  --script     print a command for these scripts that takes less time than this one

Exit status: 0 whatever happens, since Slurm drains a node whose prolog fails; 2 outside of Slurm.
"""

_EVENTS = {
    **{"start": "init", "prolog_slurmd": "init", "prolog": "init"},
    **{"end": "exit", "epilog_slurmd": "exit", "epilog": "exit"},
}


def main(argv: list[str] | None = None) -> int:
    """Do it; returns the exit status. Never raises."""
    inside = "SLURM_JOB_ID" in os.environ
    try:
        return _run(sys.argv[1:] if argv is None else argv, inside)
    except Exception as error:
        _complain(f"{type(error).__name__}: {error}")
        return 0 if inside else 2


def _run(argv: list[str], inside: bool) -> int:
    if "--help" in argv or "-h" in argv:
        sys.stdout.write(USAGE)
        return 0
    if "--script" in argv:
        print(_script())
        return 0
    path, word = _arguments(argv)
    if not inside:
        _complain("there is no SLURM_JOB_ID: this is for Prolog and Epilog of Slurm")
        return 2
    word = word or os.environ.get("SLURM_SCRIPT_CONTEXT", "")
    if word in _EVENTS:
        deliver(line_of(_EVENTS[word], os.environb), path)
    else:
        _complain(f"say 'start' or 'end': '{word}' is neither Prolog nor Epilog of a node")
    return 0


def _script() -> str:
    """A shell command that runs this file alone. A module is compiled once, a script each time."""
    import shlex

    directory = os.path.dirname(os.path.abspath(__file__))
    code = f"import sys; sys.path.append({directory!r}); import notify; sys.exit(notify.main())"
    return f"{shlex.quote(sys.executable)} -IS -c {shlex.quote(code)}"


def _arguments(argv: list[str]) -> tuple[str, str]:
    """The path and the word of a command line. What is wrong is told, and passed over."""
    path = word = ""
    rest = list(argv)
    while rest:
        argument = rest.pop(0)
        if argument == "--path" and rest:
            path = rest.pop(0)
        elif argument.startswith("--path="):
            path = argument[len("--path=") :]
        elif argument in ("start", "end"):
            word = argument
        else:
            _complain(f"'{argument}' is not understood; see 'ldmsjob notify --help'")
    if path and not (path.startswith("/") and len(os.fsencode(path)) <= LONGEST_PATH):
        _complain(f"'{path}' is no absolute path of at most {LONGEST_PATH} bytes")
        path = ""
    return path or DEFAULT_PATH, word


def _complain(text: str) -> None:
    try:
        print(f"ldmsjob notify: {text}", file=sys.stderr)
    except OSError:
        pass


# -- the line --------------------------------------------------------------------------------------


def line_of(event: str, environment: dict[bytes, bytes] | os._Environ[bytes]) -> bytes:
    """The line of ``init`` or ``exit``, from such an environment, with the line feed."""
    now = time.time_ns()
    node = environment.get(b"SLURMD_NODENAME") or os.fsencode(os.uname().nodename)
    data = _Object()

    def number(key: str, variable: str, lowest: int = 0) -> None:
        text = environment.get(variable.encode(), b"")
        if text.isdigit() and lowest <= int(text) < NO_VALUE:
            data.add(key, str(int(text)))

    def string(key: str, variable: str, most: int = NAME_SIZE) -> None:
        text = environment.get(variable.encode())
        if text:
            data.add(key, quoted(text, most))

    number("job_id", "SLURM_JOB_ID")
    data.add("node", quoted(node, NAME_SIZE))
    number("uid", "SLURM_JOB_UID")
    number("gid", "SLURM_JOB_GID")
    if event == "init":
        number("nnodes", "SLURM_JOB_NUM_NODES", 1)
        number("total_tasks", "SLURM_JOB_NTASKS", 1)
        if {b"SLURM_ARRAY_JOB_ID", b"SLURM_ARRAY_TASK_ID"} <= set(environment):
            number("array_job_id", "SLURM_ARRAY_JOB_ID", 1)
            number("array_task_id", "SLURM_ARRAY_TASK_ID")
        number("het_job_id", "SLURM_HET_JOB_ID", 1)
        number("het_job_offset", "SLURM_HET_JOB_OFFSET")
        # Not at the end: that of a job to be requeued is the next run's already.
        number("restart_count", "SLURM_JOB_RESTART_COUNT")
    else:
        number("job_exit_status", "SLURM_JOB_EXIT_CODE")
    string("partition", "SLURM_JOB_PARTITION")
    string("account", "SLURM_JOB_ACCOUNT")
    string("job_user", "SLURM_JOB_USER")
    string("job_name", "SLURM_JOB_NAME", JOB_NAME_SIZE)
    string("workflow_id", "SPANK_WORKFLOW_ID", WORKFLOW_SIZE)

    identity = _Object()
    identity.add("boot", quoted(_read("/proc/sys/kernel/random/boot_id").strip(), NAME_SIZE))
    identity.add("pid", str(os.getpid()))
    identity.add("start", _read("/proc/self/stat").rpartition(b")")[2].split()[19].decode())
    identity.add("seq", "1")

    job = environment.get(b"SLURM_JOB_ID", b"")
    line = _Object()
    line.add("notifier", identity.text())
    line.add("schema", '"slurm_job_data"')
    line.add("event", f'"{event}"')
    line.add("timestamp", str(now // 1_000_000_000))
    line.add("timestamp_ns", str(now))
    line.add("context", quoted(node + b"(script)," + job + b",0", 2 * NAME_SIZE))
    line.add("data", data.text())
    return line.text().encode() + b"\n"


class _Object:
    """A JSON object being written."""

    def __init__(self) -> None:
        self._members: list[str] = []

    def add(self, key: str, value: str) -> None:
        """Add a member; the value is JSON."""
        self._members.append(f'"{key}":{value}')

    def text(self) -> str:
        """All of it."""
        return "{" + ",".join(self._members) + "}"


def quoted(value: bytes, most: int) -> str:
    """A JSON string, of as many characters as take ``most`` bytes when they are escaped.

    Bytes that are no UTF-8 become U+FFFD.
    """
    parts = []
    for character in value.decode("utf-8", "replace"):
        if character < " ":
            character = f"\\u{ord(character):04x}"
        elif character in '"\\':
            character = "\\" + character
        most -= len(character.encode())
        if most < 0:
            break
        parts.append(character)
    return '"' + "".join(parts) + '"'


def _read(name: str) -> bytes:
    file = os.open(name, os.O_RDONLY)
    try:
        return os.read(file, 4096)
    finally:
        os.close(file)


# -- to the daemon ---------------------------------------------------------------------------------


def deliver(line: bytes, path: str) -> None:
    """Have the daemon take it, else spool it for the daemon."""
    if _recently_marked(path) or not _send(line, path):
        spool(line, path)


def _recently_marked(path: str) -> bool:
    try:
        return 0 <= time.time() - os.stat(f"{path}.mark").st_mtime < MARK_SECONDS
    except OSError:
        return False


def _send(line: bytes, path: str) -> bool:
    """Whether the daemon has answered it in time. When it was late, others are warned."""
    link = socket(AF_UNIX, SOCK_STREAM)
    try:
        link.setblocking(False)
        link.connect(path)
        if link.send(line, MSG_DONTWAIT) < len(line):
            return False
        watched = poll()
        watched.register(link.fileno(), POLLIN)
        if watched.poll(WAIT_MS):
            return link.recv(1, MSG_DONTWAIT) in (b"+", b"-")
        os.close(_open(f"{path}.mark"))
        os.utime(f"{path}.mark")
        return False
    except OSError:
        return False
    finally:
        link.close()


def spool(line: bytes, path: str) -> None:
    """Append it to the spool, or count it as lost if that cannot be."""
    name = f"{path}.spool"
    for _ in range(REWRITES):
        try:
            file = _open(name)
        except OSError as error:
            _count_lost(path, error)
            return
        try:
            if os.fstat(file).st_size + len(line) > SPOOL_LIMIT:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
            written = os.write(file, line)
            if written < len(line):
                if written:
                    os.write(file, b"\n")  # what follows begins on a line of its own
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if _is(file, name):
                return
        except OSError as error:
            _count_lost(path, error)
            return
        finally:
            os.close(file)
    # It may have been read each time, but nobody has said so.
    _count_lost(path, OSError(errno.ESTALE, os.strerror(errno.ESTALE)))


def _is(file: int, name: str) -> bool:
    """Whether the name is still that of the file: the daemon renames it to read the rest."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(name))
    except OSError:
        return False


def _open(name: str) -> int:
    """Open a file next to the socket to append to it. Never waits.

    Only a plain file of one name: another may be a file of somebody else.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
    for left in reversed(range(REWRITES)):
        try:
            file = os.open(name, flags)
            break
        except FileNotFoundError:
            pass
        try:
            file = _make(name, flags)
            break
        except FileExistsError:  # another writer has made it; the daemon may rename that at once
            if not left:
                raise
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(file)
        raise OSError(errno.EINVAL, "not a plain file")
    return file


def _make(name: str, flags: int) -> int:
    """Make the file, and its directory if need be, for the user whose directory it is."""
    directory = os.path.dirname(name)
    if not os.path.isdir(directory):
        os.mkdir(directory, 0o700)
    file = os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o600)
    owner = os.stat(directory)
    if os.geteuid() == 0 and owner.st_uid != 0:
        try:
            os.fchown(file, owner.st_uid, owner.st_gid)
        except OSError:
            pass  # then the daemon says that it cannot read it
    return file


def _count_lost(path: str, reason: OSError) -> None:
    note = ""
    try:
        file = _open(f"{path}.lost")
        try:
            if os.fstat(file).st_size < LOST_LIMIT:
                os.write(file, b".")
        finally:
            os.close(file)
    except OSError:
        note = " and not counted"
    _complain(f"an event was lost{note}: {path}.spool: {reason.strerror}")


if __name__ == "__main__":
    sys.exit(main())
