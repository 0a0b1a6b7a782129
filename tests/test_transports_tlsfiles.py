"""The transport ``tls``: its attributes and files, and what is wrong with them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from OpenSSL import SSL
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

import ldmsjob.transports
from ldmsjob.errors import ConfigError
from ldmsjob.interfaces import ITransport, LinkSettings
from ldmsjob.transports.auth_none import NoneAuthenticator
from ldmsjob.transports.tls import TlsTransport
from ldmsjob.transports.tlsfiles import read_names
from ldmsjob.wire.events import Credential
from tests.certificates import Files, identity
from tests.fake_sites import FakeSite

SETTINGS = LinkSettings(messages_enabled=lambda: True)
NAMES = "tool.example 1234:56\n"


def context() -> Any:
    """What a transport gets from the daemon."""
    return SimpleNamespace(clock=Clock(), log=Logger(namespace="xprt.tls"))


class ConfigurationTests(SynchronousTestCase):
    """Attributes and files."""

    def setUp(self) -> None:
        """A directory for files."""
        self.files = Files(self.mktemp())

    def configured(self, **changes: str) -> TlsTransport:
        """A transport of the server with some other attributes."""
        made = TlsTransport(context())
        made.configure({**self.files.attributes("server", names=NAMES), **changes})
        return made

    def fails(self, **changes: str) -> str:
        """What is said of attributes."""
        error = self.assertRaises(ConfigError, self.configured, **changes)
        self.assertNotIn("PRIVATE KEY-----\n", str(error))
        return str(error)

    def test_interface(self) -> None:
        """The transport is one."""
        verifyObject(ITransport, self.configured())

    def test_what_is_switched_off(self) -> None:
        """Versions below 1.2, and taking a session up again: each certificate is looked at."""
        context = self.configured().current().context
        options = context.set_options(0)
        for name in ("OP_NO_SSLv3", "OP_NO_TLSv1", "OP_NO_TLSv1_1", "OP_NO_TICKET"):
            self.assertTrue(options & getattr(SSL, name), name)
        self.assertFalse(options & SSL.OP_NO_TLSv1_2)
        self.assertEqual(context.get_session_cache_mode(), SSL.SESS_CACHE_OFF)

    def test_key_that_others_read(self) -> None:
        """A key is for its owner's eyes only."""
        path = self.files.attributes("server")["key"]
        for mode in (0o640, 0o604, 0o620):
            os.chmod(path, mode)
            error = self.assertRaises(
                ConfigError,
                TlsTransport(context()).configure,
                {
                    **self.files.attributes("tool"),
                    "key": path,
                },
            )
            self.assertIn(f"can be read by others (mode {mode:04o}); chmod 600", str(error))

    def test_files_that_others_change(self) -> None:
        """Who may change the CAs or the map may be anybody."""
        for name in ("ca", "names", "certificate"):
            path = self.files.attributes("server", names=NAMES)[name]
            changed = self.files.write("copy", Path(path).read_bytes(), 0o666)
            found = self.fails(**{name: changed})
            self.assertIn(f"{name} '{changed}' can be changed by others", found)

    def test_owner(self) -> None:
        """Files of other users are not used."""
        real = os.fstat

        def owned_by_another(descriptor: int) -> Any:
            return SimpleNamespace(st_mode=real(descriptor).st_mode, st_uid=os.geteuid() + 1)

        self.patch(os, "fstat", owned_by_another)
        self.assertIn(f"belongs to uid {os.geteuid() + 1}; it must belong to root", self.fails())

    def test_wrong_files(self) -> None:
        """Each wrong file is named with its attribute and what is wrong."""
        self.assertIn("key '/no/such' cannot be read: No such file", self.fails(key="/no/such"))
        self.assertIn("certificate '/' ", self.fails(certificate="/"))
        text = self.files.write("text", "hello")
        for name in ("certificate", "ca"):
            self.assertIn(f"{name} '{text}' holds no certificate", self.fails(**{name: text}))
        self.assertIn("holds no private key", self.fails(key=text))
        other = self.files.attributes("tool")["key"]
        self.assertRegex(self.fails(key=other), "key '.*tool.key' is not the one of certificate")

    def test_pipe(self) -> None:
        """A pipe is not waited for."""
        path = str(self.files.directory / "pipe")
        os.mkfifo(path)
        self.assertIn("is not a file", self.fails(key=path))

    def test_encrypted_key(self) -> None:
        """Nobody is asked for a password."""
        path = self.files.write("locked.key", identity("server").key_pem(b"secret"))
        self.assertIn("is encrypted; nobody is there to ask", self.fails(key=path))

    def test_expired(self) -> None:
        """An own certificate, or all CAs, that have expired."""
        error = self.assertRaises(
            ConfigError, TlsTransport(context()).configure, self.files.attributes("expired")
        )
        self.assertRegex(str(error), r"certificate '.*' expired on 20.* UTC; renew it")
        ca = self.files.attributes("tool", ca="old ca")["ca"]
        self.assertRegex(self.fails(ca=ca), "ca '.*' expired on")

    def test_listen_without_names(self) -> None:
        """Without authenticator or map nobody could be anybody."""
        made = TlsTransport(context())
        made.configure(self.files.attributes("server"))
        error = self.assertRaises(ConfigError, made.listen, None, 1, None, None, SETTINGS)
        self.assertIn("'names' is required", str(error))
        made.listen(None, 1, FakeSite(), NoneAuthenticator(), SETTINGS)

    def test_listen_with_server_name(self) -> None:
        """It is for the other side."""
        made = self.configured(server_name="x")
        error = self.assertRaises(ConfigError, made.listen, None, 1, None, None, SETTINGS)
        self.assertIn("'server_name' is for those who connect", str(error))

    def test_missing_packages(self) -> None:
        """Without the packages that TLS needs it is said how to get them."""
        self.configured()
        kept = vars(ldmsjob.transports).pop("tlslayer")
        self.addCleanup(setattr, ldmsjob.transports, "tlslayer", kept)
        with patch.dict(sys.modules, {"ldmsjob.transports.tlslayer": None}):
            error = self.assertRaises(ConfigError, TlsTransport, context())
        self.assertIn("pip install 'ldmsjob[tls]'", str(error))


class NamesTests(SynchronousTestCase):
    """The map from names to users."""

    def read(self, text: str | bytes) -> Any:
        """The map of that text."""
        return read_names(Files(self.mktemp()).write("names", text))

    def fails(self, text: str | bytes) -> str:
        """What is said of that text."""
        return str(self.assertRaises(ConfigError, self.read, text))

    def test_users(self) -> None:
        """By name, number, or numbers of user and group; names are the same in capitals."""
        names = self.read(
            "# comment\n\nroot.example root # more\n  ZERO.example\t0\nboth 5:6\nmix root:7\n"
        )
        for name, expected in (
            ("root.example", (0, 0)),
            ("zero.example", (0, 0)),
            ("both", (5, 6)),
            ("mix", (0, 7)),
        ):
            self.assertEqual(names.find([name]), Credential(*expected), name)
        self.assertIsNone(names.find(["other"]))

    def test_several_names(self) -> None:
        """The first name of a certificate that is listed decides; `*` is for those without; one
        without any name is nobody's."""
        names = self.read("a 1:1\nb 2:2\n* 3:3\n")
        self.assertEqual(names.find(["x", "b", "a"]), Credential(2, 2))
        self.assertEqual(names.find(["x", "y"]), Credential(3, 3))
        self.assertIsNone(names.find([]))

    def test_mistakes(self) -> None:
        """Each is told with its line."""
        for text, expected in (
            ("a 1:1\nb\n", "names:2: a line is NAME USER"),
            ("a 1:1 x\n", "names:1: a line is"),
            ("\na 1:1\nA 2:2\n", "names:3: 'a' is there already"),
            ("a no-such-user\n", "names:1: there is no user 'no-such-user'"),
            ("a 4294967294\n", "UID:GID"),
            ("a 1:x\n", "names:1: 'x' is not the number of a group"),
            ("a 1:4294967295\n", "'4294967295' is not the number"),
            ("a 1:\n", "'' is not the number of a group"),
            ("a b\0c\n", "names:1: there is no user"),
            ("a 1:" + "9" * 5000, "is not the number of a group"),
            ("# none\n", "names nobody"),
            (b"\xff", "not text in UTF-8"),
        ):
            self.assertIn(expected, self.fails(text), text)
