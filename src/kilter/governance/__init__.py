"""Governance: who people are, and what each of them may change.

In come persons, their roles and their tokens, and what an identity provider says about somebody who signs in. Out goes an
identity with its rights. It guarantees that the store has digests only of secrets, that a person who is shut out is out within
a second, and that the last administrator stays.
"""
