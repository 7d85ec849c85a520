"""Stand-ins for other trackers' modules: change one import, and the script tracks here.

Enters: the common calls of another tracker's client. Leaves: the same things in a run of Kilter.
Guarantees: a call that is known does what it did; one that isn't is not there, instead of doing nothing in silence.
"""
