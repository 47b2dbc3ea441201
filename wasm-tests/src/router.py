"""Dynamo's own KV router, which follows the workers of a deployment and shows what it believes that they cache.

Arguments: a port, the tokens of a block. Any HTTP request to that port on 127.0.0.1 is answered with the events that the router's
index comes to.
"""

import asyncio
import sys

from dynamo.llm import KvRouter, KvRouterConfig
from dynamo.runtime import dynamo_worker


@dynamo_worker()
async def serve(runtime):
    port, block_size = map(int, sys.argv[1:])
    endpoint = runtime.endpoint("dynamo.backend.generate")
    router = KvRouter(endpoint, block_size, KvRouterConfig())

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        events = (await router.dump_events()).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(events))
        writer.write(events)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", port)
    await server.serve_forever()


asyncio.run(serve())
