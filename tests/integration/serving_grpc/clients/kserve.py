"""KServe's own client."""

import asyncio

import grpc
import numpy as np
import pytest

pytest.importorskip("kserve")
from kserve import InferenceGRPCClient, InferInput, InferRequest

import kilter.serving.grpc.inference  # noqa: F401 - our messages and the client's live in one process


def request(rows, *, raw):
    tensor = InferInput("input", list(rows.shape), "FP64")
    if raw:
        tensor.set_data_from_numpy(rows, binary_data=True)
    else:
        tensor.data = rows.ravel().tolist()
    return InferRequest(model_name="tree", infer_inputs=[tensor])


def test_every_call(facts):
    async def go():
        async with InferenceGRPCClient(facts["grpc"]) as client:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready("tree")
            for raw in (True, False):
                found = await client.infer(request(facts["rows"], raw=raw))
                values = found.outputs[0].as_numpy()
                np.testing.assert_allclose(np.ravel(values), facts["tree"], atol=1e-12)
            with pytest.raises(grpc.RpcError) as caught:
                await client.infer(InferRequest(model_name="nothing", infer_inputs=[]))
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND

    asyncio.run(go())
