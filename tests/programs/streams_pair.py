"""serve PORT | client HOST PORT COUNT: COUNT connections whose bytes are not read before those of another one have all come.
stalled HOST PORT COUNT: COUNT connections that are read fast for a while, one after the other, and then not any more; how long another one takes
before, beside them and after, in seconds."""
import fcntl
import hashlib
import socket
import sys
import termios
import threading
import time

UNREAD, READ = 8 << 20, 64 << 20
FAST, TIMED = 2 << 20, 64 << 20


def pieces(size, name):
    """What is sent on a connection, in pieces of a megabyte."""
    for n in range(size >> 20):
        seed = hashlib.sha256(b"%d %d" % (name, n)).digest()
        yield seed * ((1 << 20) // len(seed))


def answer(connection):
    with connection:
        size, name = map(int, connection.makefile("rb").readline().split())
        for piece in pieces(size, name):
            connection.sendall(piece)


def serve(port):
    listener = socket.create_server(("", port), backlog=1024)
    print("listening on", port, flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


def ask(address, size, name):
    connection = socket.socket()
    # The kernel has no room for it all.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 << 10)
    connection.connect(address)
    connection.sendall(b"%d %d\n" % (size, name))
    return connection


def check(connection, size, name):
    """All that was asked for comes, and then the end."""
    with connection, connection.makefile("rb") as stream:
        for n, piece in enumerate(pieces(size, name)):
            assert stream.read(len(piece)) == piece, (name, n)
        assert stream.read(1) == b"", name


def client(address, count):
    unread = [ask(address, UNREAD, name) for name in range(count)]
    check(ask(address, READ, count), READ, count)
    print("one was read", flush=True)
    # All at once: what waits for one may have to be sent before the next one's.
    failed = []
    threading.excepthook = lambda args: failed.append(args.exc_value)
    threads = [threading.Thread(target=check, args=(one, UNREAD, name)) for name, one in enumerate(unread)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed
    print("all were read", flush=True)


def timed(address, name):
    begun = time.monotonic()
    check(ask(address, TIMED, name), TIMED, name)
    return time.monotonic() - begun


def wait_until_full(connection):
    """Until nothing more comes to a connection that is not read."""
    before, same = -1, 0
    while same < 3:
        time.sleep(0.005)
        waiting = bytearray(4)
        fcntl.ioctl(connection, termios.FIONREAD, waiting)
        waiting = int.from_bytes(waiting, sys.byteorder)
        before, same = waiting, same + 1 if waiting == before else 0


def stalled(address, count):
    print("alone", timed(address, 0), flush=True)
    held = []
    for name in range(count):
        connection = ask(address, 1 << 30, name)
        left = FAST
        while left:
            left -= len(connection.recv(min(left, 256 << 10)))
        wait_until_full(connection)
        held.append(connection)
    print("beside", count, "stalled ones", timed(address, 1), flush=True)
    for connection in held:
        connection.close()
    print("again alone", timed(address, 2), flush=True)
    sys.stdin.readline()


if sys.argv[1] == "serve":
    serve(int(sys.argv[2]))
elif sys.argv[1] == "stalled":
    stalled((sys.argv[2], int(sys.argv[3])), int(sys.argv[4]))
else:
    client((sys.argv[2], int(sys.argv[3])), int(sys.argv[4]))
