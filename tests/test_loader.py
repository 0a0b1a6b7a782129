"""Finding plugins and checking their attributes."""

import os
import sys

from twisted.trial.unittest import SynchronousTestCase

import ldmsjob.plugins
from ldmsjob.errors import ConfigError
from ldmsjob.interfaces import AttributeSpec
from ldmsjob.loader import Loader, check_attributes

DROPIN = """
from ldmsjob.plugin import SamplerFactory
it = SamplerFactory({name!r}, "A test.", (), "builtins:object")
"""


class LoaderTests(SynchronousTestCase):
    """Drop-in modules."""

    def drop(self, **modules):
        """A further directory of drop-ins; returns its path."""
        directory = self.mktemp()
        os.mkdir(directory)
        for name, text in modules.items():
            with open(os.path.join(directory, f"{name}.py"), "w") as file:
                file.write(text)
            self.addCleanup(sys.modules.pop, f"ldmsjob.plugins.{name}", None)
            self.addCleanup(vars(ldmsjob.plugins).pop, name, None)
        path = [*ldmsjob.plugins.__path__, os.path.abspath(directory)]
        self.patch(ldmsjob.plugins, "__path__", path)
        return os.path.abspath(directory)

    def test_built_in(self):
        """The plugins that come along are found by kind and name."""
        loader = Loader()
        self.assertEqual(loader.find("plugin", "jobmgr_slurm").name, "jobmgr_slurm")
        self.assertEqual(loader.find("plugin", "test_jobmgr_sampler").name, "test_jobmgr_sampler")
        self.assertEqual(loader.find("transport", "sock").name, "sock")
        self.assertEqual(loader.find("authentication plugin", "none").name, "none")
        self.assertEqual(loader.problems, [])

    def test_unknown(self):
        """Is refused with rc 2 and the nearest name, or all there are."""
        error = self.assertRaises(ConfigError, Loader().find, "plugin", "jobmgr_slrum")
        self.assertEqual((error.rc, error.hint), (2, "did you mean 'jobmgr_slurm'?"))
        error = self.assertRaises(ConfigError, Loader().find, "transport", "rdma")
        self.assertRegex(error.hint, "^this version has .*'sock'")

    def test_drop_in(self):
        """A module in a further directory is found, and its file is known."""
        directory = self.drop(dropin_a=DROPIN.format(name="dropped"))
        loader = Loader()
        factory = loader.find("plugin", "dropped")
        self.assertEqual(loader.path(factory), os.path.join(directory, "dropin_a.py"))
        self.assertIn(factory, loader.factories("plugin"))

    def test_broken_drop_in(self):
        """Is named and left out, and so mentioned when a plugin is not found; others work."""
        directory = self.drop(
            dropin_b="import nosuchmodule", dropin_c=DROPIN.format(name="dropped")
        )
        loader = Loader()
        loader.find("plugin", "dropped")
        (problem,) = loader.problems
        self.assertIn(os.path.join(directory, "dropin_b.py"), problem)
        self.assertIn("nosuchmodule", problem)
        error = self.assertRaises(ConfigError, loader.find, "plugin", "other")
        self.assertIn("dropin_b.py", error.hint)

    def test_one_name_twice(self):
        """Is refused, both files named; the same factory in two modules is one."""
        directory = self.drop(
            dropin_d=DROPIN.format(name="jobmgr_slurm"),
            dropin_e="from ldmsjob.plugins.builtin import sock",
        )
        error = self.assertRaises(ConfigError, Loader)
        self.assertIn("jobmgr_slurm", error.message)
        self.assertIn(os.path.join(directory, "dropin_d.py"), error.hint)
        self.assertIn("builtin.py", error.hint)


class AttributeTests(SynchronousTestCase):
    """What a user gives against what a plugin declares."""

    specs = (
        AttributeSpec("file", "Where to.", "path", required=True),
        AttributeSpec("linger", "How long.", "seconds", "10"),
        AttributeSpec("steps", "Steps, too.", "boolean", "no"),
        AttributeSpec("perm", "Permission.", "octal"),
        AttributeSpec("count", "How many.", "integer"),
        AttributeSpec("owner", "Whose.", "daemon|job", "daemon"),
    )

    def check(self, **given):
        """Check these attributes."""
        return check_attributes(self.specs, given, "plugin 'p'")

    def test_defaults_and_forms(self):
        """Defaults are filled in; every kind comes in one form."""
        self.assertEqual(
            self.check(file="/x"),
            {"file": "/x", "linger": "10", "steps": "false", "owner": "daemon"},
        )
        self.assertEqual(
            self.check(file="", linger="1.5m", steps=None, perm="0640", count="+07", owner="job"),
            {
                "file": "",
                "linger": "90",
                "steps": "true",
                "perm": "640",
                "count": "7",
                "owner": "job",
            },
        )

    def test_unknown_attribute(self):
        """Is refused with the nearest one, or with all."""
        error = self.assertRaises(ConfigError, self.check, file="/x", lingr="1")
        self.assertEqual(str(error), "plugin 'p' has no attribute 'lingr'; did you mean 'linger'?")
        error = self.assertRaises(ConfigError, self.check, file="/x", zz="1")
        self.assertIn("file, linger", error.hint)
        error = self.assertRaises(ConfigError, check_attributes, (), {"a": "b"}, "x")
        self.assertEqual(error.hint, "it has none")

    def test_missing_attribute(self):
        """Is refused with its meaning."""
        error = self.assertRaises(ConfigError, self.check)
        self.assertEqual(
            (error.rc, str(error)),
            (22, "the attribute 'file' is required by plugin 'p'; file=…: Where to."),
        )

    def test_bad_values(self):
        """Are refused with the attribute's name; a value is needed but for booleans."""
        for given in (
            {"linger": "soon"},
            {"perm": "9"},
            {"count": "x"},
            {"steps": "maybe"},
            {"owner": "jbo"},
            {"count": None},
        ):
            error = self.assertRaises(ConfigError, self.check, file="/x", **given)
            self.assertIn(next(iter(given)), error.message)
