"""Job manager plugins: one resource manager's vocabulary each."""
