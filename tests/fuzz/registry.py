"""All targets by name."""

from __future__ import annotations

from tests.fuzz import images, links, texts
from tests.fuzz.target import Target

_COMPOSED = ((2_000_000, 300), (4_000_000, 500))
"""What composed streams may cost: they are longer than the choices that make them, and may come one
byte at a time."""

TARGETS = {
    target.name: target
    for target in (
        Target("frames", links.frames, links.stream_seeds),
        Target("link", links.link, links.link_seeds, 8192),
        Target("link-composed", links.link_composed, links.made_seeds(3), 512, *_COMPOSED),
        Target("daemon", links.daemon, links.daemon_seeds, 8192),
        Target("daemon-composed", links.daemon_composed, links.made_seeds(64), 512, *_COMPOSED),
        Target("peer", links.peer, links.peer_seeds, 8192),
        Target("peer-composed", links.peer_composed, links.made_seeds(192), 512, *_COMPOSED),
        Target("messages", links.messages, links.message_seeds, 2048),
        Target("requests", links.daemon_requests, links.request_seeds, 2048),
        Target("authentication", links.authentication, links.authentication_seeds, 512),
        Target("set-image", images.set_image, images.image_seeds, 16_384),
        Target("set-reader", images.set_reader, images.reader_seeds, 16_384),
        Target("journal-rows", images.journal_rows, images.row_seeds, 2048),
        Target("directory", texts.directory, texts.directory_seeds, 4096),
        Target("notices", texts.notices, texts.notice_seeds, 8192),
        Target("lines", texts.lines, texts.line_seeds, 4096),
        Target("spool", texts.spool, texts.line_seeds, 4096),
        Target("configuration", texts.configuration, texts.configuration_seeds, 2048),
        Target("squeue", texts.squeue, texts.squeue_seeds, 4096),
        # A list of a few bytes may name as many nodes as there may be.
        Target(
            "hostlists",
            texts.hostlists,
            texts.hostlist_seeds,
            256,
            (1_000_000, 300),
            (50_000_000, 500),
        ),
        # A file is read into a buffer of the size that it may have.
        Target("names", texts.names, texts.name_seeds, 2048, memory=(5_000_000, 500)),
        Target("expressions", texts.regular_expressions, texts.expression_seeds, 700),
    )
}
