"""A rail of the C library, told by its standard input what to do, one command a line.

Run by a Python that finds the C library's bindings: HOST PORT ENDPOINTS QUOTA RATE. Commands:
``subscribe MATCH RATE``, ``publish CHANNEL TEXT``, ``quota N``, ``rate N``, ``credit`` (which
prints what it may still send on each endpoint). Messages that come are printed, one JSON list of
channel and text a line.
"""

import json
import select
import sys
import time

from ovis_ldms import ldms


def obey(link, line):
    """Do what a line says."""
    command, *words = line.split()
    if command == "subscribe":
        link.msg_subscribe(words[0], 1, rx_rate=int(words[1]))
    elif command == "publish":
        link.msg_publish(words[0], words[1])
    elif command == "quota":
        link.recv_quota = int(words[0])
    elif command == "rate":
        link.recv_rate_limit = int(words[0])
    elif command == "credit":
        print(json.dumps(["credit", *link.get_send_quota()]), flush=True)
    print(command, "done", flush=True)


def main(host, port, endpoints, quota, rate):
    """Connect, obey and print until killed."""
    ldms.init(16 * 1024 * 1024)
    ldms.msg_enable()
    client = ldms.MsgClient(".*", 1)
    link = ldms.Xprt(
        "sock",
        "none",
        rail_eps=int(endpoints),
        rail_recv_quota=int(quota),
        rail_rate_limit=int(rate),
    )
    link.connect(host, port)
    print("connected", flush=True)
    while True:
        message = client.get_data()
        if message is not None:
            text = message.raw_data.rstrip(b"\0").decode()
            print(json.dumps([message.name, text]), flush=True)
        elif select.select([0], [], [], 0)[0]:
            line = sys.stdin.readline()
            if not line:
                time.sleep(3600)
            obey(link, line)
        else:
            time.sleep(0.002)


if __name__ == "__main__":
    main(*sys.argv[1:])
