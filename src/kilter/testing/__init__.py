"""The contracts of the ports, as tests that anyone can run over an engine of their own.

Enters: an engine, from a fixture of the subclass. Leaves: a verdict from pytest. Guarantees: an engine that passes
behaves like the ones that Kilter ships. Subclass a contract and give it the fixture that it names.
"""
