"""What the clients are told."""

import json
import os

import numpy as np
import pytest


@pytest.fixture(scope="session")
def facts():
    """Address, rows and what the models should answer."""
    found = json.loads(os.environ["KILTER_TEST_FACTS"])
    return {name: np.array(value) if isinstance(value, list) else value for name, value in found.items()}
