from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from kilter.core.errors import InvalidInput
from kilter.core.evidence import Finding
from kilter.evaluation.declare import accuracy, brier, log_loss, recall
from kilter.release.evidence import CanaryEvidence, outcome
from kilter.release.records import FIRST_STAKE, EvidenceState


def evidence(**changed):
    return CanaryEvidence(**{"margin": 0.02, "detect": 0.05, "confidence": 0.95} | changed)


def traffic(rng, rows, share, harm, base=0.15):
    arms = rng.random(rows) < share
    bad = np.clip(base + harm * arms + rng.normal(0, 0.08, rows), 0, 1)
    return arms, np.broadcast_to(np.asarray(share, dtype=float), rows), bad


def fixed_bets(arms, share, bad, margin, detect):
    """The facts' processes written out row by row, with the same predictable mean and variance, and the reserve."""
    log = lambda n: 0.2 / (1 + math.log1p(n / 500))  # noqa: E731
    stake, promote, total, squares = FIRST_STAKE, 1.0, 0.0, 0.0
    path = []
    for t, (r, pi, y) in enumerate(zip(arms, share, bad, strict=True)):
        n = t + 20.0
        mu = (total + 2.0) / n
        v = max((squares + 20 * 0.06) / n - mu * mu, 1e-4) / (pi * (1 - pi))
        z = (1 / pi if r else -1 / (1 - pi)) * (y - mu)
        bet = min(detect / (v + detect**2), 0.5 / max(mu / pi, (1 - mu) / (1 - pi)))
        stake = (stake + log(t) - log(t + 1)) * (1 + bet * z)
        highest = max((1 - mu) / pi, mu / (1 - pi))
        promote *= 1 + min(margin / (v + margin**2), 0.5 / (highest - margin)) * (margin - z)
        path.append((stake + log(t + 1), promote))
        total += y
        squares += y * y
    return np.array(path)


def test_the_vectorised_processes_are_the_ones_written_out():
    rng = np.random.default_rng(1)
    share = np.select([np.arange(600) < 200, np.arange(600) < 400], [0.05, 0.25], 0.5)
    arms, _, bad = traffic(rng, 600, share, 0.03)
    found = evidence()
    path = found.update(arms, share, bad)
    expected = fixed_bets(arms, share, bad, 0.02, 0.05)
    np.testing.assert_allclose(np.exp(path), expected, rtol=1e-9)
    assert found.e_rollback == pytest.approx(expected[-1, 0])
    assert found.e_promote == pytest.approx(expected[-1, 1])
    assert math.exp(found.state.best_rollback) == pytest.approx(max(1.0, expected[:, 0].max()))


@pytest.mark.parametrize("cuts", [[1, 2, 3], [500], list(range(0, 1000, 37)), [0, 0, 999]])
def test_batches_of_any_size_give_the_same_evidence(cuts):
    rng = np.random.default_rng(2)
    arms, share, bad = traffic(rng, 1000, 0.25, 0.02)
    whole, parts = evidence(), evidence()
    whole.update(arms, share, bad)
    for rows in np.split(np.arange(1000), cuts):
        parts = evidence(state=msgspec.json.decode(msgspec.json.encode(parts.state), type=EvidenceState))
        parts.update(arms[rows], share[rows], bad[rows])
    for name in EvidenceState.__struct_fields__:
        assert getattr(parts.state, name) == pytest.approx(getattr(whole.state, name), rel=1e-9, abs=1e-9), name
    assert parts.verdict() == whole.verdict()


def test_each_factor_is_fair_when_the_arms_are_alike():
    """Under no harm every next factor of both processes has expectation <= 1, whatever came before."""
    rng = np.random.default_rng(3)
    arms, share, bad = traffic(rng, 200, 0.1, 0.0)
    start = evidence()
    start.update(arms, share, bad)
    for pi in (0.01, 0.3, 0.9):
        for y in (0.0, 0.4, 1.0):
            before = (start.e_rollback, start.e_promote)
            after = []
            for arm in (1, 0):
                one = evidence(state=start.state)
                one.update(np.array([arm]), np.array([pi]), np.array([y]))
                after.append((one.e_rollback, one.e_promote))
            mean = pi * np.array(after[0]) + (1 - pi) * np.array(after[1])
            assert mean[0] == pytest.approx(before[0], rel=1e-12)
            assert mean[1] > before[1]


def test_a_broken_canary_goes_back_and_a_good_one_is_promoted():
    rng = np.random.default_rng(4)
    broken, good = evidence(), evidence()
    broken.update(*traffic(rng, 800, 0.05, 0.4))
    good.update(*traffic(rng, 6000, 0.25, -0.01))
    assert broken.verdict() == "fail"
    assert good.verdict() == "pass"
    assert evidence().verdict() == "inconclusive"


def test_harm_that_begins_late_is_found_though_the_canary_was_good_before():
    rng = np.random.default_rng(5)
    found = evidence()
    found.update(*traffic(rng, 6000, 0.5, -0.03))
    assert found.verdict() == "pass"
    found.update(*traffic(rng, 1500, 0.5, 0.15))
    assert found.verdict() == "fail"


def test_a_proof_of_harm_is_remembered_and_one_of_harmlessness_must_still_stand():
    rng = np.random.default_rng(6)
    harmed = evidence()
    harmed.update(*traffic(rng, 1000, 0.5, 0.2))
    harmed.update(*traffic(rng, 4000, 0.5, -0.1))
    assert harmed.verdict() == "fail"
    assert evidence(state=EvidenceState(rows=1, promote=4.0, best_promote=4.0)).verdict() == "pass"
    assert evidence(state=EvidenceState(rows=1, promote=1.0, best_promote=4.0)).verdict() == "inconclusive"


def test_the_band_holds_the_harm_at_every_look():
    held, runs = 0, 150
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        found, always = evidence(), True
        for share in (0.05, 0.05, 0.25, 0.25, 0.5, 0.5):
            found.update(*traffic(rng, 400, share, 0.03))
            band = found.band()
            always &= band.low <= 0.03 <= band.high
        held += always
    assert held / runs >= 0.95
    assert band.high - band.low < 0.3


def test_nothing_is_known_before_the_first_row():
    band = evidence().band()
    assert (band.estimate, band.low, band.high) == (0.0, -1.0, 1.0)
    finding = evidence().finding()
    assert (finding.verdict, finding.rows) == ("inconclusive", 0)
    assert evidence().update(np.array([]), np.array([]), np.array([])).shape == (0, 2)


def test_lost_rows_are_noticed_by_the_sample_ratio_and_honest_ones_are_not():
    rng = np.random.default_rng(7)
    arms, share, bad = traffic(rng, 20_000, 0.25, 0.0)
    honest, lossy = evidence(), evidence()
    honest.update(arms, share, bad)
    kept = ~arms | (rng.random(20_000) < 0.85)
    lossy.update(arms[kept], share[kept], bad[kept])
    assert not honest.mismatched()
    assert lossy.mismatched()
    assert lossy.finding().verdict == "fail"
    assert "contradict" in lossy.finding().detail["sample_ratio"]


def test_honest_traffic_is_hardly_ever_called_mismatched():
    rng = np.random.default_rng(8)
    called = 0
    for _ in range(300):
        found = evidence()
        found.update(*traffic(rng, 2000, 0.1, 0.0))
        called += found.mismatched()
    assert called <= 2


@pytest.mark.parametrize(
    ("arms", "share", "bad", "message"),
    [
        ([1], [0.0], [0.5], "share"),
        ([1], [1.0], [0.5], "share"),
        ([1], [5.0], [0.5], "share"),
        ([1], [0.5], [1.5], "outcome"),
        ([1], [0.5], [np.nan], "outcome"),
        ([1, 0], [0.5], [0.5], "differ"),
    ],
)
def test_rows_that_cannot_be_are_refused_and_nothing_is_taken_in(arms, share, bad, message):
    found = evidence()
    with pytest.raises(InvalidInput, match=message):
        found.update(np.array(arms), np.array(share), np.array(bad))
    assert found.state == EvidenceState()


@pytest.mark.parametrize("wrong", [{"margin": 0.0}, {"detect": 1.0}, {"confidence": 95}])
def test_wrong_declarations_are_refused(wrong):
    with pytest.raises(InvalidInput, match="above 0 and below 1"):
        evidence(**wrong)


def test_a_finding_has_what_is_needed_to_judge_again():
    rng = np.random.default_rng(9)
    found = evidence()
    found.update(*traffic(rng, 3000, 0.5, 0.3))
    finding = found.finding()
    assert msgspec.json.decode(msgspec.json.encode(finding), type=Finding) == finding
    assert finding.verdict == "fail"
    assert finding.value.low > 0
    assert finding.detail["best_e_rollback"] >= finding.detail["threshold"] == pytest.approx(20.0)


class TestOutcome:
    LABEL = np.array([1.0, 0.0, 1.0, 0.0])
    VALUE = np.array([0.9, 0.2, np.nan, 0.7])

    def test_probabilities_cost_their_squared_error_and_failures_everything(self):
        for metric in (log_loss, brier):
            np.testing.assert_allclose(outcome(metric, self.LABEL, self.VALUE), [0.01, 0.04, 1.0, 0.49])

    def test_decisions_cost_one_when_wrong(self):
        np.testing.assert_array_equal(outcome(accuracy, self.LABEL, self.VALUE), [0, 0, 1, 1])
        np.testing.assert_array_equal(outcome(recall.at(0.95), self.LABEL, self.VALUE), [1, 0, 1, 0])

    def test_what_the_fallback_answered_is_a_failure_of_the_arm(self):
        failed = np.array([True, False, False, False])
        assert outcome(brier, self.LABEL, self.VALUE, failed)[0] == 1.0

    def test_a_better_probability_is_always_a_better_outcome(self):
        rate, answers = 0.3, np.linspace(0, 1, 101)
        expected = rate * outcome(log_loss, np.ones(101), answers) + (1 - rate) * outcome(
            log_loss, np.zeros(101), answers
        )
        assert answers[np.argmin(expected)] == pytest.approx(rate)
