"""Runs in a box, before all others, and writes a JSON list of what it could do but must not.

Arguments: a file outside; a folder outside; a port on which something outside listens.
"""

import json
import os
import resource
import signal
import socket
import sys
import time

outside, folder, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
found = []

for path in (outside, folder, "/etc/passwd", "/root", "/home", "/work"):
    if os.path.lexists(path) and not path.startswith("/usr"):
        found.append(f"{path} can be seen from within")
for path in ("/box/probe.py", "/usr/bin/tessy", "/tessy", "/dev/tessy"):
    try:
        with open(path, "a"):
            found.append(f"{path} can be written")
    except OSError:
        pass
if os.getuid() == 0:
    found.append("programs run as root")
if {"HOME", "PATH"} < set(os.environ) and "TESSY" in " ".join(os.environ):
    found.append("the environment is not empty")

try:
    socket.create_connection(("127.0.0.1", port), timeout=2).close()
    found.append("the network can be reached")
except OSError:
    pass

try:
    bytearray(1 << 30)
    found.append("memory is not limited")
except MemoryError:
    pass
try:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with open("/tmp/large", "wb") as file:
        for _ in range(33):
            file.write(bytes(1 << 20))
    found.append("files are not limited")
except OSError:
    pass
if not 0 <= resource.getrlimit(resource.RLIMIT_CPU)[1] <= 10:  # -1: not at all
    found.append("processor time is not limited")

children = []
try:
    for _ in range(16):
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        children.append(child)
    found.append("processes are not limited: 16 were started")
except OSError:
    pass
for child in children:
    os.kill(child, signal.SIGKILL)

print(json.dumps(found))
