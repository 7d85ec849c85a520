"""Shadow and canary: evidence about a release while it takes traffic, and the verdicts it allows.

In go predictions joined with their labels, in whatever order the labels arrive, with the arm and its logged share.
Out come verdicts that hold at every look: the chance of a false rollback or a false promotion stays below the error
that was declared, however often one looks, however the shares change, without any assumption of normality.
"""
