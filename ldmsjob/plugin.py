"""Ready-made factories: what a drop-in module in ``ldmsjob/plugins/`` declares.

A drop-in is a few lines::

    from ldmsjob.interfaces import AttributeSpec
    from ldmsjob.plugin import SamplerFactory

    loadavg = SamplerFactory(
        name="loadavg",
        summary="Load averages of this node.",
        attributes=(AttributeSpec("component_id", "Number of this node.", "integer", "0"),),
        maker="my_package.loadavg:LoadAverage",
    )
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import msgspec
from twisted.plugin import IPlugin
from zope.interface import implementer

from ldmsjob.interfaces import (
    AttributeSpec,
    IAuthenticatorFactory,
    IJobManagerFactory,
    ISamplerFactory,
    ISubscriberFactory,
    ITransportFactory,
)


class PluginFactory(msgspec.Struct, frozen=True):
    """What the factories below have in common; use one of those, which say the kind.

    ``maker`` is ``"module:name"`` of a class or function. It is imported when the first instance
    is created, never before, and called with the context as its only argument.
    """

    name: str
    summary: str
    attributes: Sequence[AttributeSpec]
    maker: str

    def create(self, context: Any) -> Any:
        """Import the maker and call it with ``context``."""
        module, _, name = self.maker.partition(":")
        return getattr(import_module(module), name)(context)


@implementer(IPlugin, IJobManagerFactory)
class JobManagerFactory(PluginFactory, frozen=True):
    """Declares a job manager; ``maker`` is called with an ``IJobManagerContext``."""


@implementer(IPlugin, ISamplerFactory)
class SamplerFactory(PluginFactory, frozen=True):
    """Declares a sampler; ``maker`` is called with an ``ISamplerContext``."""


@implementer(IPlugin, ISubscriberFactory)
class SubscriberFactory(PluginFactory, frozen=True):
    """Declares a subscriber of job events; ``maker`` is called with an ``ISamplerContext``."""


@implementer(IPlugin, ITransportFactory)
class TransportFactory(PluginFactory, frozen=True):
    """Declares a transport; ``maker`` is called with an ``IPluginContext``."""

    has_ports: bool = True
    """False: it is addressed by a path in the file system."""
    authenticates: bool = False
    """True: it proves who peers are, so that no authenticator is needed."""


@implementer(IPlugin, IAuthenticatorFactory)
class AuthenticatorFactory(PluginFactory, frozen=True):
    """Declares a way to authenticate; ``maker`` is called with an ``IPluginContext``."""
