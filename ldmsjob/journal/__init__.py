"""The journal: what was accepted, on disk before its publisher is told so (docs/journal.md)."""
