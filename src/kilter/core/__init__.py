"""Pure words used everywhere: ids, clocks, errors, digests, intervals, statistics.

Nothing enters and nothing leaves: no disk, no network, no SQL, no web. Every other room may import this one;
it imports none of them.
"""
