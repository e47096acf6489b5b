"""datagram_pair.py server PORT | client HOST PORT LOCAL: datagrams of sockets that a server has for one client each.

The server hears a word from each of its clients on PORT, and answers as it says: "connected": from a socket with the same
port that is connected to the client (as for DTLS); "other": from a socket with a port of its own, bound to an address,
that is connected, too, and sends with the address all the same (as for TFTP). The client asks for both, first from port
LOCAL, and goes on with the address that answered.
"""

import socket
import sys

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


if sys.argv[1] == "server":
    server(int(sys.argv[2]))
else:
    client(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
