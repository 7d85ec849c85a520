"""Models as files that any process can load without running code from the file.

A fitted model, its signature and example rows enter; a content-addressed bundle (native booster text, UBJSON or skops,
and a JSON manifest) leaves, and loads again as a runtime that calls the native library.
Guarantees: no pickle, digests are verified at every load, and a bundle that predicts differently from its model is refused.
"""
