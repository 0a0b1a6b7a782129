"""The `ldmsjob` command: one module per sub-command."""
