"""An ldmsjob plugin in a package of its own: one module, and one drop-in that declares it."""

from setuptools import setup

setup(
    name="ldmsjob-sampler-example",
    version="1.0",
    description="A sampler for ldmsjob that counts jobs",
    license="BSD-3-Clause",
    python_requires=">=3.10",
    py_modules=["jobs_started"],
    packages=["ldmsjob.plugins"],  # without __init__.py: it joins the directory of that name
    install_requires=["ldmsjob"],
)
