"""datagram_pair.py server PORT | client HOST PORT LOCAL | peer HOST PORT | once HOST PORT: datagrams of sockets that a server has for one client each.

The server hears a word from each of its clients on PORT, and answers as it says: "connected": from a socket with the same
port that is connected to the client (as for DTLS); "other": from a socket with a port of its own, bound to an address,
that is connected, too, and sends with the address all the same (as for TFTP). The client asks for both, first from port
LOCAL, and goes on with the address that answered. Peers have the same port, begin both at once, when they are told to by a
line, and hear each other. Those of "once" say nothing twice: what is lost is missed.
"""

import select
import socket
import sys
import time

PATIENCE = 20


def datagrams():
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.settimeout(PATIENCE)
    return made


def own_address(client):
    with datagrams() as towards:
        towards.connect(client)
        return towards.getsockname()[0]


def server(port):
    heard = datagrams()
    heard.bind(("0.0.0.0", port))
    print("listening on", port, flush=True)
    for _ in range(2):
        word, client = heard.recvfrom(100)
        print("asked for", word.decode(), "by port", client[1], flush=True)
        answers = datagrams()
        answers.bind(("0.0.0.0", port) if word == b"connected" else (own_address(client), 0))
        answers.connect(client)
        for number in range(3):
            text = b"%s %d" % (word, number)
            if word == b"connected":
                answers.send(text)
            else:
                answers.sendto(text, client)
            said = answers.recv(100)
            assert said == b"heard " + text, said
        answers.close()
    print("all answered", flush=True)


def client(host, port, local):
    at = (socket.gethostbyname(host), port)
    for word, own in [("connected", local), ("other", 0)]:
        asks = datagrams()
        asks.bind(("0.0.0.0", own))
        asks.sendto(word.encode(), at)
        answerers = set()
        for number in range(3):
            text, answerer = asks.recvfrom(100)
            assert text == b"%s %d" % (word.encode(), number), text
            answerers.add(answerer)
            asks.sendto(b"heard " + text, answerer)
        assert len(answerers) == 1 and (answerers == {at}) == (word == "connected"), (word, answerers)
        print(word, "answered", flush=True)


def peer(host, port):
    mine = datagrams()
    mine.bind(("0.0.0.0", port))
    at = (socket.gethostbyname(host), port)
    print("listening on", port, flush=True)
    sys.stdin.readline()
    # As programs do that use datagrams: what is not heard is said again.
    mine.settimeout(0.5)
    wanted = {b"word %d" % number for number in range(5)}
    heard, end = set(), time.monotonic() + PATIENCE
    while heard != wanted and time.monotonic() < end:
        for word in sorted(wanted):
            mine.sendto(word, at)
        try:
            while heard != wanted:
                word, source = mine.recvfrom(100)
                # Where the two sessions cross, the second is seen at the next port.
                assert source[0] == at[0] and source[1] in (port, port + 1), source
                heard.add(word)
        except TimeoutError:
            pass
    assert heard == wanted, heard
    print("all heard", flush=True)
    # The other one may not have.
    while not select.select([sys.stdin], [], [], 0.3)[0]:
        for word in sorted(wanted):
            mine.sendto(word, at)


def once(host, port):
    mine = datagrams()
    mine.bind(("0.0.0.0", port))
    at = (socket.gethostbyname(host), port)
    print("listening on", port, flush=True)
    for line in sys.stdin:
        wanted = {line.strip().encode() + b" %d" % number for number in range(20)}
        for word in sorted(wanted):
            mine.sendto(word, at)
        heard, end = set(), time.monotonic() + PATIENCE
        while heard != wanted:
            assert select.select([mine], [], [], end - time.monotonic())[0], (line, sorted(wanted - heard))
            word, source = mine.recvfrom(100)
            # By data channels nobody's port is told.
            assert source[0] == at[0], source
            heard.add(word)
        print("all heard", flush=True)


if sys.argv[1] == "once":
    once(sys.argv[2], int(sys.argv[3]))
elif sys.argv[1] == "peer":
    peer(sys.argv[2], int(sys.argv[3]))
elif sys.argv[1] == "server":
    server(int(sys.argv[2]))
else:
    client(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
