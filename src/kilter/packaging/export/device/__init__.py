"""What runs on a device: asks a bundle's graphs, verifies and swaps releases, and keeps predictions until they are uploaded.

It goes along with a bundle as ``kilter_edge`` and needs Python 3.11, NumPy and ONNX Runtime, and cryptography to verify and to sign;
nothing else of Kilter.
"""
