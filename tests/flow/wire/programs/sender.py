"""A process that streams numbered orders to whoever asks, and counts what it made."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import uvicorn

from hormesis.flow.wire import StreamEndpoint

made: list[int] = []


def tell(**facts: object) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def memory() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


async def orders(scope: Any) -> AsyncIterator[dict[str, Any]]:
    number, size = int(sys.argv[2]), int(sys.argv[3])
    for order in range(1, number + 1):
        made.append(order)
        yield {"order": order, "text": "x" * size}


async def main() -> None:
    endpoint = StreamEndpoint(orders, resume_for="10s")
    server = uvicorn.Server(
        uvicorn.Config(endpoint, port=int(sys.argv[1]), log_level="error", ws=sys.argv[4], timeout_graceful_shutdown=1)
    )
    serving = asyncio.create_task(server.serve())
    while not server.started:
        assert not serving.done()
        await asyncio.sleep(0.01)
    tell(port=server.servers[0].sockets[0].getsockname()[1])
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        match line.strip():
            case "made":
                tell(made=len(made))
            case "memory":
                tell(memory=memory())
            case "streams":
                tell(streams=len(endpoint.outlets))
            case _:
                pass
    server.should_exit = True
    await serving


if __name__ == "__main__":
    asyncio.run(main())
