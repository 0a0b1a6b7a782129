"""Authentication with real munged processes. Needs munged, and LDMSJOB_REAL to be set."""
