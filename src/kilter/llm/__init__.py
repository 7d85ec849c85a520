"""Applications built on language models: what they did, how it was judged, and the examples to judge by.

Enters: spans of any OpenTelemetry exporter, traces and assessments of MLflow's clients, records of evaluation datasets.
Leaves: traces that can be searched, followed and measured, with their tokens and costs counted once.
Guarantees: what was acknowledged is on disk, a span that is sent again is the same span, a batch is there wholly or not at all.
"""
