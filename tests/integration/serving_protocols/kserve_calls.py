"""Every call of KServe's own REST client; a process of its own, because its descriptors clash with those of Triton's client."""

import asyncio
import json
import sys

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput


async def calls(url: str) -> dict[str, object]:
    """Return what the client makes of the answers."""
    rows = np.array(json.loads(sys.argv[2]))
    found: dict[str, object] = {}
    async with InferenceRESTClient(RESTConfig(protocol="v2", retries=0)) as client:
        found["live"] = await client.is_server_live(url)
        found["ready"] = await client.is_server_ready(url)
        found["model"] = await client.is_model_ready(url, "tree")
        found["none"] = await client.is_model_ready(url, "none")
        for name, binary in (("json", False), ("binary", True)):
            asked = InferInput("input", list(rows.shape), "FP64")
            asked.set_data_from_numpy(rows, binary_data=binary)
            wanted = [RequestedOutput("value", {"binary_data": binary})]
            request = InferRequest(model_name="tree", infer_inputs=[asked], request_outputs=wanted, request_id="r-1")
            answer = await client.infer(url, request, model_name="tree")
            found[name] = np.asarray(answer.outputs[0].as_numpy()).ravel().tolist()
            found[f"{name} id"] = answer.id
        try:
            await client.infer(url, {"inputs": []}, model_name="tree")
        except Exception as error:  # noqa: BLE001 - whatever the client makes of it is told
            found["refused"] = str(error)
    async with InferenceRESTClient(RESTConfig(protocol="v1", retries=0)) as client:
        found["v1 live"] = await client.is_server_live(url)
        found["v1 model"] = await client.is_model_ready(url, "tree")
        found["v1"] = await client.infer(url, {"instances": rows.tolist()}, model_name="tree")
        found["explained"] = await client.explain(url, "tree", {"instances": rows.tolist()})
        try:
            await client.explain(url, "split", {"instances": [[1.0]]})
        except Exception as error:  # noqa: BLE001 - whatever the client makes of it is told
            found["explain"] = str(error)
    return found


print(json.dumps(asyncio.run(calls(sys.argv[1]))))
