"""The KV event sockets of an engine, on libzmq: PUB, and ROUTER for replays, with the options that vLLM sets.

Reads commands from standard input, a JSON object a line, and answers each with a line when it is done:
{"events": [...], "lost": bool} publishes a batch, or keeps it for replays only. Events are
{"stored": [token, ...], "first": name} and {"removed": [name, ...]}.
"""

import argparse
import json
import sys
from collections import deque

import msgspec
import zmq

BLOCK_SIZE = 4
END_OF_REPLAY = (-1).to_bytes(8, "big", signed=True)


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", required=True, help="endpoint of PUB")
    parser.add_argument("--replay", required=True)
    parser.add_argument("--connect", action="store_true", help="PUB connects to its endpoint")
    parser.add_argument("--topic", default="")
    parser.add_argument("--form", choices=["vllm", "sglang"], required=True, help="frames of a replay, layout of a batch")
    return parser.parse_args()


def event(told, form):
    if "removed" in told:
        fields = {"block_hashes": told["removed"]}
        tag = "BlockRemoved"
    else:
        tokens, first = told["stored"], told["first"]
        fields = {
            "block_hashes": [first + number for number in range(len(tokens) // BLOCK_SIZE)],
            "parent_block_hash": None,
            "token_ids": tokens,
            "block_size": BLOCK_SIZE,
            "lora_id": None,
        }
        tag = "BlockStored"
    return [tag, *fields.values()] if form == "sglang" else {"type": tag, **fields}


def main():
    args = arguments()
    context = zmq.Context()
    publisher = context.socket(zmq.PUB)
    publisher.set_hwm(100_000)
    publisher.heartbeat_ivl = 50
    if args.connect:
        publisher.connect(args.events)
    else:
        publisher.bind(args.events)
    replay = context.socket(zmq.ROUTER)
    replay.bind(args.replay)
    kept = deque(maxlen=10_000)
    endpoints = {"events": publisher.last_endpoint.decode(), "replay": replay.last_endpoint.decode()}
    print(json.dumps(endpoints), flush=True)

    poller = zmq.Poller()
    poller.register(replay, zmq.POLLIN)
    poller.register(sys.stdin.fileno(), zmq.POLLIN)
    number = 0
    while True:
        ready = dict(poller.poll())
        if replay in ready:
            client, empty, start = replay.recv_multipart()
            assert empty == b""
            start = int.from_bytes(start, "big")
            topic = [args.topic.encode()] if args.form == "vllm" else []
            for sequence, payload in kept:
                if sequence >= start:
                    replay.send_multipart([client, b"", *topic, sequence.to_bytes(8, "big"), payload])
            replay.send_multipart([client, b"", *topic, END_OF_REPLAY, b""])
        if sys.stdin.fileno() in ready:
            line = sys.stdin.readline()
            if not line:
                return
            told = json.loads(line)
            batch = [float(number), [event(one, args.form) for one in told["events"]], 0]
            payload = msgspec.msgpack.encode(batch)
            kept.append((number, payload))
            if not told["lost"]:
                publisher.send_multipart([args.topic.encode(), number.to_bytes(8, "big"), payload])
            number += 1
            print("done", flush=True)


main()
