"""An ldmsjob plugin in a package of its own: one module, and one drop-in that declares it."""

from setuptools import setup

setup(
    name="ldmsjob-jobmgr-example",
    version="1.0",
    description="A job manager for ldmsjob that reads lines of text",
    license="BSD-3-Clause",
    python_requires=">=3.10",
    py_modules=["line_jobs"],
    packages=["ldmsjob.plugins"],  # without __init__.py: it joins the directory of that name
    install_requires=["ldmsjob"],
)
