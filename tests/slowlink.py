"""`slowlink.py HOST:PORT LEAST MOST COMMAND…`: run a command whose TOKENSTORM_LAUNCHER is that address, but far away.

Whatever passes takes between LEAST and MOST milliseconds, each way, and stays in order.
"""

import asyncio
import os
import random
import sys


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, least: float, most: float) -> None:
    """Read at once, write later."""
    loop = asyncio.get_running_loop()
    under_way = asyncio.Queue[tuple[float, bytes]]()

    async def arrive() -> None:
        data = b"-"
        while data:
            due, data = await under_way.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            writer.write(data)
        writer.close()

    async def leave() -> None:
        data, due = b"-", 0.0
        while data:
            data = await reader.read(65536)
            due = max(due, loop.time() + random.uniform(least, most))
            under_way.put_nowait((due, data))

    await asyncio.gather(arrive(), leave())


async def main(address: str, least: float, most: float, command: list[str]) -> int:
    host, _, port = address.rpartition(":")
    over = asyncio.Event()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, away = await asyncio.open_connection(host, int(port))
        await asyncio.gather(pass_on(reader, away, least, most), pass_on(there, writer, least, most))
        over.set()

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        near = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        process = await asyncio.create_subprocess_exec(*command, env={**os.environ, "TOKENSTORM_LAUNCHER": near})
        status = await process.wait()
        await over.wait()  # what it said last is still under way
        return status


if __name__ == "__main__":
    least, most = (float(word) / 1000 for word in sys.argv[2:4])
    sys.exit(asyncio.run(main(sys.argv[1], least, most, sys.argv[4:])))
