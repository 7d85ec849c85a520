"""Google's words for the registry: the client of Vertex AI's model registry on the rooms' operations, unchanged.

Enters: the calls of ``ModelService`` (REST, v1) and of the operations that they begin. Leaves: their answers, with Google's error codes.
Guarantees: nothing is stored here; an operation is a line of the registry's history, so it is found again after a restart.
"""
