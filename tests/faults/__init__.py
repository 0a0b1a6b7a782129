"""Daemons and nodes that are killed, stopped or flooded while jobs run.

Runs only when the environment variable ``LDMSJOB_REAL`` is set; what needs Slurm is skipped where
it is not installed.
"""
