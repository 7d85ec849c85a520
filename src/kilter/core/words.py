"""Words for people: the question that names what someone probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LEAST = 3


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """Return ``did you mean 'limit'?``, or nothing when no known word is near or begins alike.

    Args:
        given: What was written.
        known: What could have been meant.
    """
    text, words = str(given), list(known)
    close = difflib.get_close_matches(text, words, n=1, cutoff=0.6)
    if not close and len(text) >= _LEAST:
        close = [word for word in words if len(word) >= _LEAST and (text.startswith(word) or word.startswith(text))]
    return f"did you mean {close[0]!r}?" if close else ""
