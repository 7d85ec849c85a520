"""Packaged models as source code and as files for other platforms.

A bundle enters; files leave: C or JavaScript that needs nothing else, a page, graphs and a runtime for devices, a container's folder, and
what Kubernetes, KServe, SageMaker, Vertex AI and Azure ML want to know about that container.
Guarantees: the same bundle gives the same bytes, source code and graphs are checked against the model's own answers before anything
is written, and a folder is complete or not there.
"""
