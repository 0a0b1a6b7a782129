"""Our notifier for Slurm, driven by a stand-in for slurmstepd. harness.c says how that is told what
to do; ``tests.spank.checks`` runs the same tests under valgrind and the address sanitizer."""
