"""A daemon under load, among bad peers and on a disk that fills, for as long as you like
(docs/testing.md, Soak): ``python -m tests.soak``."""
