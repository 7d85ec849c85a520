"""The control plane's faces: operations over HTTP, the journal as a stream, health, metrics, and the pages.

Enters: HTTP requests. Leaves: results, RFC 9457 problems, events, pages; and the processes of ``kilter up``.
Guarantees: nothing passes the edge without a token, but health and (on this machine only) the reading of pages; Host and
Origin are checked first, sizes before parsing; input is never echoed; a write sent twice with one key is done once.
"""
