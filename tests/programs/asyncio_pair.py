#!/usr/bin/python3
"""An asyncio pair, streams and datagrams on one port.

asyncio_pair.py server PORT
asyncio_pair.py client HOST PORT CONNECTIONS
"""

import asyncio
import sys


class Reverse(asyncio.DatagramProtocol):
    """Answers each datagram with its bytes reversed."""

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        self.transport.sendto(data[::-1], addr)


async def serve_stream(reader, writer):
    peer = writer.get_extra_info("peername")
    assert peer[1] > 0, peer
    while line := await reader.readline():
        writer.write(line.upper())
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def server(port):
    streams = await asyncio.start_server(serve_stream, "0.0.0.0", port)
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(Reverse, local_addr=("0.0.0.0", port))
    print("listening on", streams.sockets[0].getsockname(), flush=True)
    await streams.serve_forever()


class Asker(asyncio.DatagramProtocol):
    """Keeps the answers, with where they came from."""

    def __init__(self):
        self.answers = asyncio.Queue()

    def datagram_received(self, data, addr):
        self.answers.put_nowait((data, addr))

    def error_received(self, exc):
        self.answers.put_nowait((exc, None))


async def one_stream(host, port, number):
    reader, writer = await asyncio.open_connection(host, port)
    assert writer.get_extra_info("peername")[:2] == (host, port), writer.get_extra_info("peername")
    for i in range(20):
        writer.write(f"connection {number} line {i}\n".encode())
        await writer.drain()
        line = await reader.readline()
        assert line == f"CONNECTION {number} LINE {i}\n".encode(), line
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


async def datagrams(host, port):
    loop = asyncio.get_running_loop()
    transport, asker = await loop.create_datagram_endpoint(Asker, remote_addr=(host, port))
    for i in range(20):
        transport.sendto(f"connected {i}".encode())
        data, addr = await asyncio.wait_for(asker.answers.get(), 10)
        assert data == f"connected {i}".encode()[::-1], data
        assert addr == (host, port), addr
    transport.close()
    transport, asker = await loop.create_datagram_endpoint(Asker, local_addr=("0.0.0.0", 0))
    for i in range(20):
        transport.sendto(f"unconnected {i}".encode(), (host, port))
        data, addr = await asyncio.wait_for(asker.answers.get(), 10)
        assert data == f"unconnected {i}".encode()[::-1], data
        assert addr == (host, port), addr
    transport.close()


async def client(host, port, connections):
    await asyncio.wait_for(asyncio.gather(*(one_stream(host, port, n) for n in range(connections))), 60)
    await datagrams(host, port)
    print(f"asyncio: {connections} streams and 40 datagrams answered", flush=True)


def main():
    if sys.argv[1:2] == ["server"] and len(sys.argv) == 3:
        asyncio.run(server(int(sys.argv[2])))
    elif sys.argv[1:2] == ["client"] and len(sys.argv) == 5:
        asyncio.run(client(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
