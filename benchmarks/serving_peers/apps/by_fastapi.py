"""The model behind a FastAPI application, written by hand: ``python by_fastapi.py MODEL PORT``."""

import sys

import numpy as np
import uvicorn
from fastapi import FastAPI, Request, Response
from loading import load
from pydantic import BaseModel

COLUMNS = 30
model = load(sys.argv[1])
app = FastAPI()


class Tensor(BaseModel):
    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class Inference(BaseModel):
    inputs: list[Tensor]


@app.get("/ready")
def ready() -> dict[str, bool]:
    return {"ready": True}


@app.post("/v2/models/bench/infer")
def infer(request: Inference) -> dict[str, object]:
    tensor = request.inputs[0]
    values = model.predict_proba(np.asarray(tensor.data, dtype=np.float32).reshape(tensor.shape))[:, 1]
    output = {"name": "p", "shape": [len(values)], "datatype": "FP32", "data": values.tolist()}
    return {"model_name": "bench", "outputs": [output]}


@app.post("/raw")
async def raw(request: Request) -> Response:
    rows = np.frombuffer(await request.body(), dtype=np.float32).reshape(-1, COLUMNS)
    return Response(model.predict_proba(rows)[:, 1].astype(np.float32).tobytes(), media_type="application/octet-stream")


uvicorn.run(app, port=int(sys.argv[2]), log_level="warning", access_log=False)
