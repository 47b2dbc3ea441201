"""Applies histories of KV events to Dynamo's own RadixTree and says what it finds.

Input on stdin, one JSON value: a list of histories, each a list of steps:
{"worker": n, "stored": {"parent": name or null, "blocks": [name], "tokens": [id], "block_size": n, "lora": text or null,
"namespace": text or null, "eagle": bool, "media": [[hash]]}}, {"worker": n, "removed": [name]}, {"worker": n, "cleared": true},
{"worker": n, "gone": true} or {"query": {the same fields of content}}. Output: for each history the answers to its queries,
each a list of [worker, blocks]. Local hashes are Dynamo's own as well.
"""

import json
import sys

from dynamo._core import RadixTree, compute_block_hash_for_seq


def local_hashes(content):
    media = content["media"]
    infos = [{"mm_objects": [{"mm_hash": mm_hash, "offsets": []} for mm_hash in block]} if block else None for block in media]
    return compute_block_hash_for_seq(
        content["tokens"],
        content["block_size"],
        infos or None,
        content["lora"],
        content["eagle"],
        content["namespace"],
    )


def stored(content):
    blocks = zip(content["blocks"], local_hashes(content), strict=True)
    blocks = [{"block_hash": name, "tokens_hash": local} for name, local in blocks]
    return {"stored": {"parent_hash": content["parent"], "blocks": blocks}}


def answers(history):
    tree = RadixTree()
    for number, step in enumerate(history):
        if "query" in step:
            scores = tree.find_matches(local_hashes(step["query"])).scores
            yield sorted([worker, blocks] for (worker, _), blocks in scores.items())
            continue
        if "gone" in step:
            tree.remove_worker(step["worker"])
            continue
        if "stored" in step:
            data = stored(step["stored"])
        elif "removed" in step:
            data = {"removed": {"block_hashes": step["removed"]}}
        else:
            data = "cleared"
        event = {"event_id": number, "data": data, "dp_rank": 0}
        try:
            tree.apply_event(step["worker"], json.dumps(event).encode())
        except RuntimeError as error:
            # What it refuses it has not done; anything else is a mistake of ours.
            if not any(known in str(error) for known in ("find parent block", "find block", "block sequence")):
                raise


print(json.dumps([list(answers(history)) for history in json.load(sys.stdin)]))
