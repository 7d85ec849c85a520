"""Promotion from one environment to another.

In comes a version that passed its gates in one store; out comes the same version in another one, byte for byte, under a number of
that store and with its origin. Nothing is trained or built again. What arrives serves nobody before the other store's rules let it.
"""
