"""The model as a Ray Serve deployment, one replica: ``python by_ray.py MODEL PORT``."""

import signal
import sys

import numpy as np
import ray
from loading import load
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

COLUMNS = 30


@serve.deployment(num_replicas=1, max_ongoing_requests=100, ray_actor_options={"num_cpus": 1})
class Bench:
    def __init__(self, path: str) -> None:
        self.model = load(path)

    async def __call__(self, request: Request) -> object:
        if request.headers.get("content-type") == "application/octet-stream":
            rows = np.frombuffer(await request.body(), dtype=np.float32).reshape(-1, COLUMNS)
            return Response(self.model.predict_proba(rows)[:, 1].astype(np.float32).tobytes())
        tensor = (await request.json())["inputs"][0]
        rows = np.asarray(tensor["data"], dtype=np.float32).reshape(tensor["shape"])
        return {"outputs": self.model.predict_proba(rows)[:, 1].tolist()}


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    serve.start(
        http_options={"host": "127.0.0.1", "port": int(sys.argv[2])}, logging_config={"enable_access_log": False}
    )
    serve.run(Bench.bind(sys.argv[1]), route_prefix="/", logging_config={"enable_access_log": False})
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()
