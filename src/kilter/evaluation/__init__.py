"""Metrics and gates: what a challenger must prove before it sees traffic.

In go labels, predictions of challenger and champion on the same rows, their times and groups, and timings.
Out come findings: a verdict each, with estimate, interval, rows, rule and the numbers to judge it again.
A gate that can't be computed fails. Rows are never taken as independent: whole blocks are resampled.
"""
