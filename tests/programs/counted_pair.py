"""A pair whose bytes are known: serve PORT, or ask HOST PORT. Both stay until a line comes on standard input. With "stream" before these words
there are no datagrams."""

import socket
import sys

ASKED = b"q" * 70000
ANSWER = b"hello"

words = sys.argv[1:]
only_stream = words[0] == "stream"
role, *where, port = words[1:] if only_stream else words
port = int(port)
if role == "serve":
    listener = socket.create_server(("0.0.0.0", port))
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind(("0.0.0.0", port))
    print("listening on", port, flush=True)
    stream, _ = listener.accept()
    got = 0
    while got < len(ASKED):
        got += len(stream.recv(1 << 16))
    stream.sendall(ANSWER)
    if not only_stream:
        data, peer = datagrams.recvfrom(2000)
        datagrams.sendto(data + data, peer)
else:
    host = where[0]
    stream = socket.create_connection((host, port))
    stream.sendall(ASKED)
    got = b""
    while got != ANSWER:
        got += stream.recv(10)
    if not only_stream:
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.sendto(b"d" * 300, (host, port))
        assert len(datagrams.recv(2000)) == 600
print("counted", flush=True)
sys.stdin.readline()
