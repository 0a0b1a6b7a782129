"""Ways to authenticate in a configuration, and what `--check` says of them."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from ldmsjob.errors import ConfigError
from ldmsjob.interfaces import ICheckedAuthenticator
from ldmsjob.plugin import AuthenticatorFactory
from ldmsjob.tap import Options, check
from tests.daemons import Rig


@implementer(ICheckedAuthenticator)
class Tried:
    """An authenticator that remembers how often it was tried."""

    name = "tried"
    result: str | ConfigError = "all is well"
    tries = 0

    def __init__(self, context: Any) -> None:
        pass

    def configure(self, attributes: Any) -> None:
        """Nothing to take."""

    def check(self) -> str:
        """What the test wants."""
        type(self).tries += 1
        if isinstance(self.result, ConfigError):
            raise self.result
        return self.result


class CheckTests(SynchronousTestCase):
    """``Authentications.check`` and its caller."""

    def setUp(self) -> None:
        """A daemon that knows the authenticator ``tried``."""
        self.patch(Tried, "result", "all is well")
        self.patch(Tried, "tries", 0)
        self.rig = Rig(self)
        maker = "tests.test_authentication_check:Tried"
        self.rig.daemon.loader.add(AuthenticatorFactory("tried", "A fake.", (), maker), __file__)

    def test_all_are_tried(self) -> None:
        """The default and each named one; those that cannot be tried are left out."""
        self.rig.read(
            "default_auth plugin=tried\nauth_add name=a plugin=tried\nauth_add name=none\n"
        )
        self.assertEqual(
            self.rig.daemon.authentications.check(), ["authentication tried: all is well"] * 2
        )
        self.assertEqual(Tried.tries, 2)

    def test_where(self) -> None:
        """What fails is told with the line that wants it."""
        self.patch(Tried, "result", ConfigError("cannot", rc=13, hint="do this"))
        for line in ("default_auth plugin=tried", "auth_add name=a plugin=tried"):
            self.setUp()
            self.patch(Tried, "result", ConfigError("cannot", rc=13, hint="do this"))
            (path,) = self.rig.read(f"# a comment\n{line}\n")
            error = self.assertRaises(ConfigError, self.rig.daemon.authentications.check)
            self.assertEqual(str(error), f"{path}:2: cannot; do this")

    def test_start_does_not_try(self) -> None:
        """A daemon starts without: munged may come later."""
        self.patch(Tried, "result", ConfigError("cannot"))
        self.rig.read("auth_add name=a plugin=tried\nlisten xprt=wire port=411 auth=a\n")
        self.rig.start()
        self.assertEqual(Tried.tries, 0)

    def check(self, text: str) -> tuple[int, str, str]:
        """Status and output of `ldmsjob check`."""
        path = Path(self.mktemp())
        path.write_text(text)
        options = Options()
        options.files, options.check = [str(path)], True
        out, err = io.StringIO(), io.StringIO()
        status = check(options, Clock(), out, err, begin_logging=lambda *_a, **_k: None)
        return status, out.getvalue(), err.getvalue().replace(str(path), "FILE")

    def test_secret_file(self) -> None:
        """The tool says whether the secret word can be used, and if not why."""
        secret = Path(self.mktemp()).absolute()
        secret.write_text("secretword=a-good-secret\n")
        secret.chmod(0o600)
        text = f"auth_add name=a plugin=ovis conf={secret}\nlisten xprt=sock port=4411 auth=a\n"
        status, out, err = self.check(text)
        self.assertEqual((status, err), (0, ""))
        self.assertIn(f"authentication ovis: the secret word in {secret} can be used\n", out)
        secret.chmod(0o644)
        status, out, err = self.check(text)
        self.assertEqual((status, out), (13, ""))
        self.assertIn("FILE:1: others than its owner can use the file", err)
        self.assertIn(f"chmod 600 {secret}", err)
        self.assertNotIn("a-good-secret", out + err)

    def test_options(self) -> None:
        """Options of all ways are C's; a name is no id."""
        os.environ.pop("LDMS_AUTH_FILE", None)
        for line, said in (
            ("auth_add name=a plugin=naive uid=0 gid=12", ""),
            ("auth_add name=a plugin=naive uid=root", "FILE:1: "),
            ("auth_add name=a plugin=naive uid=-1", "FILE:1: uid '-1' invalid"),
            ("auth_add name=a plugin=naive conf=x", "FILE:1: "),
            ("auth_add name=a plugin=ovis conf=/nonexistent/x", "No such file or directory"),
            ("auth_add name=a plugin=ovis", "LDMS_AUTH_FILE" if not have_secret() else ""),
        ):
            status, _, err = self.check(f"{line}\nlisten xprt=sock port=4411 auth=a\n")
            self.assertEqual(status == 0, not said, err)
            self.assertIn(said, err)


def have_secret() -> bool:
    """Whether this host has a secret word where it is looked for."""
    from ldmsjob.transports.auth_ovis import candidate_files

    return any(os.path.exists(path) for path in candidate_files())
