"""When a node announced each block, by a process that does nothing else: "number seconds" a line.

The seconds are the machine's monotonic clock (`time.perf_counter`), which other processes share.

    python -m bench.heard WS_URL
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import aiohttp

SUBSCRIBE = {"jsonrpc": "2.0", "id": 0, "method": "eth_subscribe", "params": ["newHeads"]}


async def main(url: str) -> None:
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
        await socket.send_json(SUBSCRIBE)
        async for message in socket:
            heard_s = time.perf_counter()
            said = json.loads(message.data)
            if "params" in said:
                print(int(said["params"]["result"]["number"], 16), heard_s, flush=True)
            else:
                print("ready", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
