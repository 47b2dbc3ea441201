"""A worker of NVIDIA Dynamo that serves several models and writes the token ids of every prompt into a file.

Arguments: the file, then NAME=DIRECTORY of each model, or NAME=DIRECTORY=PARSER with a parser of reasoning.
"""

import asyncio
import json
import sys

from dynamo.llm import ModelInput, ModelRuntimeConfig, ModelType, WorkerType, register_model
from dynamo.runtime import dynamo_worker


@dynamo_worker()
async def serve(runtime):
    record, *models = sys.argv[1:]

    async def generate(request, context):
        with open(record, "a") as file:
            file.write(json.dumps(request["token_ids"]) + "\n")
        yield {"token_ids": [0], "finish_reason": "stop"}

    serving = []
    for model in models:
        name, directory, *parser = model.split("=")
        runtime_config = ModelRuntimeConfig()
        runtime_config.reasoning_parser = parser[0] if parser else None
        endpoint = runtime.endpoint(f"dynamo.{name}.generate")
        serving.append(asyncio.ensure_future(endpoint.serve_endpoint(generate)))
        await register_model(
            ModelInput.Tokens,
            ModelType.Chat | ModelType.Completions,
            endpoint,
            directory,
            name,
            worker_type=WorkerType.Aggregated,
            runtime_config=runtime_config,
            ignore_weights=True,
        )
    await asyncio.gather(*serving)


asyncio.run(serve())
