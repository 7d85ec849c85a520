"""`decide` under seeded schedules of crashes, delays, duplicates and people, held against invariants."""
