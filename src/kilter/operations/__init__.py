"""The table of typed operations, and everything that is derived from it.

Enters: services, whose public methods are marked with ``@operation``. Leaves: requests that are checked, OpenAPI, a remote
client and MCP tools. Guarantees: an operation is written once; a wrong argument is refused with its path, what is allowed
and the fix, and is never echoed; the remote call returns the same Struct and raises the same error as the local one.
"""
