"""Subscribes at a daemon through the C library and prints what comes, one JSON object a line.

Run by a Python that finds the C library's bindings: HOST PORT MATCH IS_REGEX.
"""

import json
import sys
import time

from ovis_ldms import ldms


def main(host: str, port: str, match: str, is_regex: str) -> None:
    """Subscribe and print until killed."""
    ldms.init(16 * 1024 * 1024)
    ldms.msg_enable()
    client = ldms.MsgClient(".*", 1)
    link = ldms.Xprt("sock", "none")
    link.connect(host, port)
    link.msg_subscribe(match, int(is_regex))
    print("subscribed", flush=True)
    while True:
        message = client.get_data()
        if message is None:
            time.sleep(0.01)
            continue
        record = {
            "channel": message.name,
            "data": message.raw_data.rstrip(b"\0").decode(),
            "uid": message.uid,
        }
        print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
