"""What a front tells of itself: counters under everybody's names, traces and spans."""
