"""Hands a command to the nursery, and ends as it ended; see nursery.py. Imports little, because it starts hundreds of times."""

import json
import os
import socket
import sys

files = [0, 1, 2]
for name in os.listdir("/proc/self/fd"):  # a shell's <(…) is one more
    if int(name) > 2 and os.path.exists(f"/proc/self/fd/{name}"):  # one was the list's own
        files.append(int(name))

with socket.socket(socket.AF_UNIX) as nursery:
    nursery.connect(sys.argv[1])
    order = json.dumps({"words": sys.argv[2:], "folder": os.getcwd(), "environ": dict(os.environ), "files": files}).encode()
    socket.send_fds(nursery, [len(order).to_bytes(4, "big")], files)
    nursery.sendall(order)
    nursery.recv(4, socket.MSG_WAITALL)  # the fork's number
    status = int.from_bytes(nursery.recv(4, socket.MSG_WAITALL), "big", signed=True)
if status < 0:
    os.kill(os.getpid(), -status)
sys.exit(status)
