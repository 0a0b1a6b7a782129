"""Packaging of ldmsjob. pyproject.toml names the build system and the tools' settings only."""

import re
from pathlib import Path

from setuptools import find_packages, setup

# What the transport tls needs.
TLS = ["cryptography>=42", "pyopenssl>=24", "service-identity>=23.1", "idna>=2.4"]

# What the command `metrics` needs.
METRICS = ["prometheus-client>=0.20"]

HERE = Path(__file__).resolve().parent
VERSION = re.search(
    r'^__version__ = "([^"]+)"', (HERE / "ldmsjob" / "__init__.py").read_text("utf-8"), re.M
)
assert VERSION is not None, "ldmsjob/__init__.py names no version"

setup(
    name="ldmsjob",
    version=VERSION.group(1),
    description="The job manager of LDMS as a Twisted daemon",
    long_description=(HERE / "README.rst").read_text("utf-8"),
    long_description_content_type="text/x-rst",
    author="the ldmsjob developers",
    license="BSD-3-Clause",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: No Input/Output (Daemon)",
        "Framework :: Twisted",
        "Intended Audience :: System Administrators",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: System :: Distributed Computing",
        "Topic :: System :: Monitoring",
    ],
    python_requires=">=3.10",
    # twisted/plugins has no __init__.py: Twisted finds drop-ins in every such directory there is.
    packages=[*find_packages(include=["ldmsjob", "ldmsjob.*"]), "twisted.plugins"],
    package_data={
        "ldmsjob": ["py.typed"],
        "ldmsjob.recordings": ["*.jsonl"],
        "ldmsjob.spank": ["*.c", "*.h"],
    },
    entry_points={"console_scripts": ["ldmsjob = ldmsjob.cli.main:main"]},
    install_requires=[
        "construct>=2.10.70",
        "google-re2>=1.1",
        "msgspec>=0.18.6",
        "rich>=13",
        "twisted>=24.7",
        "zope.interface>=6",
    ],
    extras_require={
        "tls": TLS,
        "metrics": METRICS,
        "dev": [
            *TLS,
            *METRICS,
            "build>=1",
            "hypothesis>=6.100",
            "mypy>=2.4,<2.5",  # the pair that works together
            "mypy-zope==1.0.17",
            "ruff==0.17.6",  # another version formats differently
            "towncrier>=24",
        ],
    },
    zip_safe=False,
)
