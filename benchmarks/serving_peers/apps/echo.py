"""The least that the front's HTTP costs: its own connections on its event loop give every body back. ``python echo.py PORT``."""

import asyncio
import sys

import uvloop

from kilter.serving.front.http import Connection, Limits, Request


class Echo:
    """Answers with what it was sent."""

    def __init__(self) -> None:
        self.limits = Limits()
        self.draining = False
        self.connections: set[Connection] = set()

    def handle(self, request: Request) -> None:
        request.reply.send(200, request.body)


async def serve(port: int) -> None:
    running, echo = asyncio.get_running_loop(), Echo()
    server = await running.create_server(lambda: Connection(echo, running.time), "127.0.0.1", port)
    await server.serve_forever()


uvloop.run(serve(int(sys.argv[1])))
