"""A process that receives orders, one when it is told to, or as fast as it can."""

from __future__ import annotations

import asyncio
import json
import sys

from hormesis.flow.wire import Reconnect, Window, receive


def tell(**facts: object) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


async def main() -> None:
    window = Window(items=int(sys.argv[2]), bytes=1_000_000)
    got: list[int] = []
    going = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def heed() -> None:
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            match line.strip():
                case "go":
                    going.set()
                case "stop":
                    going.clear()
                case "got":
                    tell(got=len(got))
                case _:
                    pass

    heeding = asyncio.create_task(heed())
    reconnect = Reconnect(delay="20ms", delay_max="200ms")
    async with receive(sys.argv[1], window=window, reconnect=reconnect, wait="1s") as orders:
        async for order in orders:
            if not got:
                tell(first=order["order"])
            await going.wait()
            got.append(order["order"])
        tell(connections=orders.inlet.connections)
    tell(whole=got == list(range(1, len(got) + 1)), number=len(got))
    await heeding


if __name__ == "__main__":
    asyncio.run(main())
