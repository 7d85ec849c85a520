"""What a training's own process does to be tracked: a buffer on its disk, and a sender that brings it to a store.

In: calls of ``log``. Out: operations of :class:`kilter.tracking.service.RunService`, each with a key, so that sending again is safe.
Guaranteed: a call never waits for the network, never raises, and what reached the disk arrives once.
"""
