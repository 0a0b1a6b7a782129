"""LDMS's own bytes, without any input or output: no sockets, clocks, files or logs."""
