"""A transfer that lasts as long as one wants. `serve PORT`: one TCP connection, whose bytes are sent back. `client HOST PORT`: sends random bytes at
a steady rate, says `sent N` for each megabyte that has come back, and ends after a line on standard input; what has come back must be what was sent."""
import hashlib
import os
import socket
import sys
import threading
import time

PIECE = 32 * 1024
PER_SECOND = 60


def serve(port):
    with socket.create_server(("0.0.0.0", port)) as listener:
        print("listening on", port, flush=True)
        connection, _ = listener.accept()
        with connection:
            while data := connection.recv(65536):
                connection.sendall(data)


def client(host, port):
    connection = socket.create_connection((host, port))
    sent, ended = hashlib.sha256(), threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), ended.set()), daemon=True).start()

    def write():
        while not ended.is_set():
            data = os.urandom(PIECE)
            sent.update(data)
            connection.sendall(data)
            time.sleep(1 / PER_SECOND)
        connection.shutdown(socket.SHUT_WR)

    writer = threading.Thread(target=write)
    writer.start()
    back, size = hashlib.sha256(), 0
    while data := connection.recv(65536):
        back.update(data)
        if (size + len(data)) >> 20 > size >> 20:
            print("sent", (size + len(data)) >> 20, flush=True)
        size += len(data)
    writer.join()
    assert back.digest() == sent.digest(), "what came back is not what was sent"
    print("the same", size, flush=True)


if sys.argv[1] == "serve":
    serve(int(sys.argv[2]))
else:
    client(sys.argv[2], int(sys.argv[3]))
