"""Factories of plugins."""

import os
import subprocess
import sys

from twisted.plugin import IPlugin
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from ldmsjob.interfaces import (
    IAuthenticatorFactory,
    IJobManagerFactory,
    ISamplerFactory,
    ITransportFactory,
)
from ldmsjob.plugin import (
    AuthenticatorFactory,
    JobManagerFactory,
    SamplerFactory,
    TransportFactory,
)


class PluginFactoryTests(SynchronousTestCase):
    """The ready-made factories."""

    def test_kinds(self):
        """Each provides its interface and is a plugin to twisted.plugin."""
        for factory_class, interface in (
            (JobManagerFactory, IJobManagerFactory),
            (SamplerFactory, ISamplerFactory),
            (TransportFactory, ITransportFactory),
            (AuthenticatorFactory, IAuthenticatorFactory),
        ):
            factory = factory_class("a", "b", (), "types:SimpleNamespace")
            verifyObject(interface, factory)
            verifyObject(IPlugin, factory)

    def test_maker_is_called_with_the_context(self):
        """And what it returns is the instance."""
        factory = SamplerFactory("a", "b", (), "builtins:list")
        self.assertEqual(factory.create("xy"), ["x", "y"])

    def test_declaring_imports_nothing(self):
        """The module of a built-in plugin is imported when an instance is made, not before."""
        code = (
            "import sys, ldmsjob.plugins.builtin;"
            "print([n for n in sys.modules if n.startswith('ldmsjob.') and"
            " n.split('.')[1] in ('jobmgr', 'samplers', 'transports', 'wire', 'sets')])"
        )
        result = subprocess.run(
            [sys.executable, "-c", code],
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        self.assertEqual(result.stdout, "[]\n", result.stderr)
