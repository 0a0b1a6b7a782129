"""ldmsjob under a real Slurm, from ``sbatch`` to the event file.

Runs only when the environment variable ``LDMSJOB_REAL`` is set, since it takes minutes, and when
Slurm's daemons are installed; skipped with the reason otherwise. ``CONTRIBUTING.rst`` says how to
run it, ``scenarios.txt`` what is expected.
"""
