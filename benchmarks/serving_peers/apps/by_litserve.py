"""The model behind LitServe, one worker: ``python by_litserve.py MODEL PORT``."""

import sys

import litserve
import numpy as np
from loading import load


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe's signature
        self.model = load(sys.argv[1])

    def decode_request(self, request):  # noqa: ANN001, ANN201 - LitServe reads annotations as the shape of the request
        tensor = request["inputs"][0]
        return np.asarray(tensor["data"], dtype=np.float32).reshape(tensor["shape"])

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.model.predict_proba(x)[:, 1]

    def encode_response(self, output: np.ndarray) -> dict[str, object]:
        return {"outputs": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=1)
    server.run(port=int(sys.argv[2]), num_api_servers=1, generate_client_file=False, log_level="warning")
