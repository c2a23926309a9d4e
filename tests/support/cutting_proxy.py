"""A TCP proxy whose connections break: whenever a test says so, or by themselves after so many bytes up or down."""

import asyncio
from asyncio import StreamReader, StreamWriter
from contextlib import suppress


class Proxy:
    """Passes bytes on to a port of this machine. `cut` breaks every connection; a closed one breaks new ones too."""

    def __init__(self, target: int, *, most_up: int = 1 << 62, most_down: int = 1 << 62, rate: int = 0) -> None:
        """`most_up` and `most_down` are how many bytes one connection passes on before it breaks; `rate` is in bytes a
        second, each way, and 0 as fast as can be.
        """
        self._target, self._rate = target, rate
        self._most = {"up": most_up, "down": most_down}
        self._writers: set[StreamWriter] = set()
        self.closed = False
        self.connections = 0
        self.passed = {"up": 0, "down": 0}
        """How many bytes went each way, over all connections."""

    async def start(self) -> int:
        """Listen, and return the port."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        port: int = server.sockets[0].getsockname()[1]
        return port

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _connected(self, reader: StreamReader, writer: StreamWriter) -> None:
        if self.closed:
            writer.close()
            return
        self.connections += 1
        there_reader, there = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers |= {writer, there}
        await asyncio.gather(
            self._pass_on(reader, there, writer, "up"), self._pass_on(there_reader, writer, there, "down")
        )

    async def _pass_on(self, reader: StreamReader, writer: StreamWriter, back: StreamWriter, way: str) -> None:
        left = self._most[way]
        with suppress(ConnectionError):
            while left and (data := await reader.read(min(left, 1 << 14))):
                writer.write(data)
                await writer.drain()
                left -= len(data)
                self.passed[way] += len(data)
                if self._rate:
                    await asyncio.sleep(len(data) / self._rate)
            if not left:  # whoever it is for has all of it: a silo must not be resent what had come
                writer.close()
                await writer.wait_closed()
        for one in (writer, back):
            one.transport.abort()
        self._writers -= {writer, back}
