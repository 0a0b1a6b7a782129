"""Where plugins are found: this package and every ``ldmsjob/plugins/`` directory on ``sys.path``.

Such a directory must hold no ``__init__.py``; see docs/plugins.md.
"""

from twisted.plugin import pluginPackagePaths

__path__.extend(pluginPackagePaths(__name__))
__all__: list[str] = []
