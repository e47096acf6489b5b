"""A pair for flows. `serve PORT...`: TCP listeners and UDP sockets on each port; TCP says the SHA-256 of what it got until the end, in
hexadecimal, UDP says the datagram back. `client HOST PORT OTHER CLOSED`: speaks with both, and finds nobody on CLOSED."""
import hashlib
import os
import socket
import socketserver
import sys
import threading


class Stream(socketserver.BaseRequestHandler):
    def handle(self):
        digest, size = hashlib.sha256(), 0
        while data := self.request.recv(65536):
            digest.update(data)
            size += len(data)
        self.request.sendall(digest.hexdigest().encode())


class Datagrams(socketserver.BaseRequestHandler):
    def handle(self):
        data, at = self.request
        at.sendto(data, self.client_address)


class Server(socketserver.ThreadingTCPServer):
    request_queue_size = 256
    allow_reuse_address = True
    daemon_threads = True


class UdpServer(socketserver.UDPServer):
    max_packet_size = 65507


def serve(ports):
    for port in ports:
        for server in Server(("0.0.0.0", port), Stream), UdpServer(("0.0.0.0", port), Datagrams):
            threading.Thread(target=server.serve_forever, daemon=True).start()
    print("listening on", *ports, flush=True)
    threading.Event().wait()


def exchange(where, data):
    with socket.create_connection(where) as s:
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)
        answer = b""
        while more := s.recv(4096):
            answer += more
        assert answer.decode() == hashlib.sha256(data).hexdigest(), answer


def client(host, port, other, closed):
    exchange((host, port), b"first")
    print("first", flush=True)
    for n in range(50):
        exchange((host, (port, other)[n % 2]), os.urandom(1000))
    print("50 in turn", flush=True)
    failed = []

    def one(n):
        try:
            exchange((host, port), os.urandom(100_000 + n))
        except Exception as e:
            failed.append(e)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(60)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failed, failed
    print("60 at once", flush=True)
    exchange((host, other), os.urandom(20_000_000))
    print("20 MB", flush=True)
    try:
        socket.create_connection((host, closed))
        print("connected to nobody", flush=True)
    except OSError as e:
        print("closed:", e.errno, flush=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(10)
        for size in 1, 1200, 1400, 9000, 60000:
            data = os.urandom(size)
            s.sendto(data, (host, port))
            got, source = s.recvfrom(65536)
            assert got == data and source == (host, port), (size, len(got), source)
    print("datagrams", flush=True)


if sys.argv[1] == "serve":
    serve([int(p) for p in sys.argv[2:]])
else:
    client(sys.argv[2], *[int(p) for p in sys.argv[3:6]])
