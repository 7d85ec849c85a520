"""Unmodified clients, each in a process of its own."""

import pytest


@pytest.mark.parametrize("client", ["triton", "kserve", "tensorflow_serving", "health"])
def test_a_client_is_served(run_client, client):
    run_client(client)
