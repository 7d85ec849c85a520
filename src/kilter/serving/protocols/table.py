"""All protocols of a front."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kilter.serving.front.intake import Intake
from kilter.serving.protocols.azure_ml import AzureML
from kilter.serving.protocols.invocations import Invocations
from kilter.serving.protocols.models import Models
from kilter.serving.protocols.open_inference import OpenInference
from kilter.serving.protocols.openapi import OpenApi
from kilter.serving.protocols.predict import Predict
from kilter.serving.protocols.predict_v1 import PredictV1
from kilter.serving.protocols.routes import Route
from kilter.serving.protocols.sagemaker import SageMaker
from kilter.serving.protocols.torchserve import TorchServe
from kilter.serving.protocols.vertex import Vertex


def all_routes(intake: Intake, ready: Callable[[], bool], environment: Mapping[str, str]) -> list[Route]:
    """Return the routes of all protocols.

    Args:
        intake: Where requests go.
        ready: Whether the whole front is ready.
        environment: Where the routes come from that a platform gives by name.
    """
    models = Models(intake, ready)
    return [
        *Predict(intake).routes(),
        *OpenApi(intake).routes(),
        *OpenInference(intake, models).routes(),
        *PredictV1(intake, models).routes(),
        *Invocations(intake, ready).routes(),
        *SageMaker(intake).routes(),
        *Vertex(intake, ready, environment).routes(),
        *AzureML(intake).routes(),
        *TorchServe(intake, models).routes(),
    ]
