"""Windowed features of events, declared once and computed twice.

Enters: FeatureViews, and the rows of their tables as they arrive. Leaves: features as of a moment, offline for a frame of
queries and online for one request. Guarantees: both give the same bits, for late, repeated, corrected and tied events;
a window is ``[t - lag - over, t - lag)``; two definitions never share stored state.
"""
