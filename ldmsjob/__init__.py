"""ldmsjob: the job manager of LDMS as a Twisted daemon."""

__version__ = "0.1.0"
