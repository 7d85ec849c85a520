"""The loop that ties the rooms together.

Enters: a declaration, events (alarms, labels, answers, requests). Leaves: actions on the rooms, and a journal of why.
Guarantees: one release in flight per loop, no action twice, no deploy without gates and steps, budgets kept, a way back.
"""
