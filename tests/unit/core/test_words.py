from __future__ import annotations

import pytest

from kilter.core.words import did_you_mean


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("carier", "did you mean 'carrier'?"),
        ("production", "did you mean 'prod'?"),
        ("stag", "did you mean 'staging'?"),
        ("xyz", ""),
        ("", ""),
        (3, ""),
    ],
)
def test_a_near_word_is_named(given: object, expected: str) -> None:
    assert did_you_mean(given, ["carrier", "prod", "staging"]) == expected
