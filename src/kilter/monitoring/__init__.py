"""Watching a model that serves.

Enters: the prediction log, late labels, and the profile that was made of the training rows. Leaves: findings, alerts, and daily
numbers for the page. Guarantees: every finding carries its interval over whole days; an alarm never deploys anything; a restart
re-reads the logs and says the same again; a day that is recorded twice is recorded once.
"""
