"""ldmsjob against unmodified C programs of LDMS.

Runs only when the environment variable ``LDMS_PREFIX`` names an installed C build, such as
``/opt/ldms-main``; skipped with the reason otherwise.
"""
