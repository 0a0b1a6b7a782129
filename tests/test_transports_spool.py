"""The notifier's spool, read from files of the test's own."""

from __future__ import annotations

import os
import stat

from twisted.trial.unittest import SynchronousTestCase

from ldmsjob.stats import Stats
from ldmsjob.transports.spool import Spool, Untrusted
from tests.notifiers import spool


class SpoolTests(SynchronousTestCase):
    """Files next to a socket."""

    def setUp(self) -> None:
        """No files yet."""
        directory = self.mktemp()
        os.mkdir(directory)
        self.path = f"{directory}/socket"
        self.stats = Stats()
        self.spool = self.make()

    def make(self) -> Spool:
        """The reader of another daemon."""
        made = Spool(self.path, self.stats.add)
        self.addCleanup(made.close)
        return made

    def files(self) -> list[str]:
        """What is in the directory, without the socket's name."""
        names = os.listdir(os.path.dirname(self.path))
        return sorted(name.removeprefix("socket") for name in names)

    def read_all(self, limit: int = 1 << 20) -> list[bytes]:
        """Read until there is no more."""
        result: list[bytes] = []
        while (piece := self.spool.read(limit)) is not None:
            result += piece[0]
        return result

    def test_read_and_removed(self) -> None:
        """Lines come once; the file goes when the end has been reached, not before."""
        self.assertFalse(self.spool.grown())
        self.assertIsNone(self.spool.read(100))
        spool(self.path, b"a", b"b")
        self.assertTrue(self.spool.grown())
        self.assertEqual(self.spool.read(100), ([b"a", b"b"], 4))
        self.assertEqual(self.files(), [".spool.old"])
        self.assertTrue(self.spool.grown())
        self.assertIsNone(self.spool.read(100))
        self.assertEqual(self.files(), [])
        self.assertFalse(self.spool.grown())
        self.assertEqual(self.spool.credential.uid, os.geteuid())

    def test_pieces(self) -> None:
        """It is read in pieces of any size; what is written meanwhile comes the next time."""
        spool(self.path, b"first", b"second")
        self.assertEqual(self.spool.read(3), ([], 3))
        self.assertEqual(self.spool.read(4), ([b"first"], 4))
        spool(self.path, b"third")
        self.assertEqual(self.read_all(5), [b"second"])
        self.assertEqual(self.files(), [".spool"])
        self.assertEqual(self.read_all(5), [b"third"])

    def test_written_to_behind_the_rename(self) -> None:
        """A writer that had the file open when it was renamed is read to the end."""
        spool(self.path, b"a")
        with open(f"{self.path}.spool", "ab", buffering=0) as writer:
            self.assertEqual(self.spool.read(100), ([b"a"], 2))
            writer.write(b"b\n")
            self.assertEqual(self.read_all(), [b"b"])

    def test_left_behind(self) -> None:
        """What a daemon had begun to read, another one reads first, from its beginning."""
        spool(self.path, b"a", b"b")
        self.spool.read(2)
        self.spool.close()
        spool(self.path, b"c")
        self.spool = self.make()
        self.assertTrue(self.spool.left_behind())
        self.assertEqual(self.read_all(), [b"a", b"b"])
        self.assertEqual(self.read_all(), [b"c"])

    def test_unread(self) -> None:
        """Lines that nobody took come again, and the file stays meanwhile."""
        spool(self.path, b"a", b"b")
        lines, _ = self.spool.read(100) or ([], 0)
        self.spool.unread(lines)
        self.assertTrue(self.spool.grown())
        self.assertEqual(self.read_all(), [b"a", b"b"])

    def test_truncated(self) -> None:
        """A last line without its end is left out and counted."""
        spool(self.path, b"a")
        spool(self.path, b"half", ends=b"")
        self.assertEqual(self.read_all(), [b"a"])
        self.assertEqual(self.stats.get("spool_truncated"), 1)

    def test_too_long(self) -> None:
        """A line that is too long is left out and counted."""
        spool(self.path, b"a", b"x" * 20_000, b"b")
        self.assertEqual(self.read_all(1000), [b"a", b"b"])
        self.assertEqual(self.stats.get("refused.too_long"), 1)

    def refused(self) -> str:
        """Why the spool is not believed; then it is out of the way."""
        self.assertTrue(self.spool.grown())
        problem = self.assertRaises(Untrusted, self.spool.read, 100)
        self.assertEqual(self.files(), [".spool.refused"])
        self.assertFalse(self.spool.grown())
        return str(problem)

    def test_mode(self) -> None:
        """A file that others may write to is put aside, and named."""
        spool(self.path, b"a")
        os.chmod(f"{self.path}.spool", 0o620)
        self.assertIn("may be written by others (mode 0620)", self.refused())

    def test_owner(self) -> None:
        """A file of another user is put aside, and named; root's is believed."""
        spool(self.path, b"a")
        mine = os.geteuid()
        if mine == 0:
            os.chown(f"{self.path}.spool", 4711, 4711)
            self.assertIn("belongs to uid 4711", self.refused())
            spool(self.path, b"b")
            self.spool = Spool(self.path, self.stats.add, user=lambda: 4711)
            self.assertEqual(self.read_all(), [b"b"])
        else:
            self.spool = Spool(self.path, self.stats.add, user=lambda: mine + 1)
            self.assertIn(f"belongs to uid {mine}", self.refused())

    def test_link(self) -> None:
        """A symbolic link is not followed."""
        os.symlink("/etc/passwd", f"{self.path}.spool")
        self.refused()
        self.assertTrue(os.path.exists("/etc/passwd"))

    def test_no_file(self) -> None:
        """A directory or a pipe is no spool; nobody waits for the pipe."""
        os.mkdir(f"{self.path}.spool")
        self.assertIn("no regular file", self.refused())
        os.rmdir(f"{self.path}.spool.refused")
        os.mkfifo(f"{self.path}.spool")
        self.assertIn("no regular file", self.refused())

    def test_cannot_be_put_aside(self) -> None:
        """If it is in the way for good, that is said each time."""
        os.mkdir(f"{self.path}.spool.refused")
        spool(self.path, b"a")
        os.chmod(f"{self.path}.spool", 0o666)
        for _ in range(2):
            problem = self.assertRaises(Untrusted, self.spool.read, 100)
            self.assertIn("cannot be put aside", str(problem))

    def test_disk_error(self) -> None:
        """What cannot be read is put aside, and the error told; later lines are read."""
        spool(self.path, b"a", b"b")
        self.spool.read(2)

        def fail(_file: int, _size: int) -> bytes:
            raise OSError(5, "Input/output error")

        failing = self.patch(os, "read", fail)
        self.assertRaises(OSError, self.spool.read, 100)
        failing.restore()
        self.assertIn(".spool.refused", self.files())
        spool(self.path, b"c")
        self.assertEqual(self.read_all(), [b"c"])

    def test_lost(self) -> None:
        """What writers gave up is told once, with the call after the one that found it."""
        self.assertEqual(self.spool.lost(), 0)
        with open(f"{self.path}.lost", "ab", buffering=0) as writer:
            writer.write(b"..")
            self.assertEqual(self.spool.lost(), 0)
            writer.write(b".")
        self.assertEqual(self.files(), [".lost.old"])
        self.assertEqual(self.spool.lost(), 3)
        self.assertEqual((self.spool.lost(), self.files()), (0, []))

    def test_mark_is_left_alone(self) -> None:
        """What writers tell one another is none of the daemon's business."""
        with open(f"{self.path}.mark", "w"):
            pass
        spool(self.path, b"a")
        self.read_all()
        self.assertEqual(self.files(), [".mark"])
        self.assertTrue(stat.S_ISREG(os.lstat(f"{self.path}.mark").st_mode))
