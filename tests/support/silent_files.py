"""A file system that answers only requests for the attributes of its root, like a dead NFS server.

usage: silent_files.py DIRECTORY. Prints `mounted` and runs until it is killed, which ends all processes that wait for it.
"""
import ctypes
import os
import struct
import sys

INIT, GETATTR, ROOT = 26, 3, 1
ENODEV = 19

libc = ctypes.CDLL(None, use_errno=True)
try:
    device = os.open("/dev/fuse", os.O_RDWR)
except OSError as error:
    sys.exit(f"cannot: {error}")
options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
if libc.mount(b"silent", sys.argv[1].encode(), b"fuse", 0, options):
    sys.exit(f"cannot: mount: {os.strerror(ctypes.get_errno())}")
print("mounted", flush=True)


def answer(unique, body):
    os.write(device, struct.pack("<IiQ", 16 + len(body), 0, unique) + body)


while True:
    try:
        request = os.read(device, 1 << 20)
    except OSError as error:
        if error.errno == ENODEV:
            sys.exit(0)
        continue
    _length, operation, unique, node = struct.unpack("<IIQQ", request[:24])
    if operation == INIT:
        answer(unique, struct.pack("<IIIIHHII", 7, 31, 65536, 0, 12, 12, 65536, 0).ljust(64, b"\0"))
    elif operation == GETATTR and node == ROOT:
        attributes = struct.pack("<6Q10I", ROOT, 0, 0, 0, 0, 0, 0, 0, 0, 0o40755, 2, 0, 0, 0, 4096, 0)
        answer(unique, struct.pack("<QII", 1, 0, 0) + attributes)
