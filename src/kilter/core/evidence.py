"""What a verdict rests on: the same record for a gate, a monitor, a shadow and a canary."""

from __future__ import annotations

from typing import Literal

import msgspec

Verdict = Literal["pass", "fail", "inconclusive"]


class Interval(msgspec.Struct, frozen=True):
    """An estimate with its interval.

    Args:
        estimate: The point estimate.
        low: The lower end; minus infinity is written as ``None``.
        high: The upper end; infinity is written as ``None``.
        level: The coverage, between 0 and 1.
    """

    estimate: float
    low: float | None
    high: float | None
    level: float

    def __str__(self) -> str:
        low = "-inf" if self.low is None else _shown(self.low)
        high = "+inf" if self.high is None else _shown(self.high)
        return f"{_shown(self.estimate)} [{low}, {high}] at {self.level:.0%}"


def _shown(value: float) -> str:
    """Return four decimals, or for what is smaller than they show, three digits: a latency is not zero seconds."""
    return f"{value:+.4f}" if abs(value) >= 0.001 or not value else f"{value:+.3g}"


class Finding(msgspec.Struct, frozen=True):
    """One judged question, with everything needed to judge it again.

    Args:
        name: The gate or monitor, as declared: ``"beats_champion(log_loss)"``.
        verdict: ``pass``, ``fail`` or ``inconclusive``.
        value: The statistic with its interval.
        allowed: The bound that the statistic was held against, in words: ``"< 0"``.
        rows: How many rows it rests on.
        rule: The method and its source, in one sentence.
        detail: Numbers worth keeping: per group, per step, both losses, the e-value.
    """

    name: str
    verdict: Verdict
    value: Interval | None
    allowed: str
    rows: int
    rule: str
    detail: dict[str, float | int | str | None] = {}

    def sentence(self) -> str:
        """Return the finding as one line for people."""
        if self.value is None:
            reason = self.detail.get("reason") or self.rule
            return f"{self.name}: {self.verdict} ({reason})"
        value = str(self.value)
        return f"{self.name}: {self.verdict} ({value}; allowed {self.allowed}; {self.rows:,} rows)"


def worst(findings: tuple[Finding, ...]) -> Verdict:
    """Return ``fail`` if any finding fails, else ``inconclusive`` if any is, else ``pass``; nothing judged fails closed."""
    verdicts = {finding.verdict for finding in findings}
    if not verdicts or "fail" in verdicts:
        return "fail"
    return "inconclusive" if "inconclusive" in verdicts else "pass"
