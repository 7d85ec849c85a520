from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as theirs

from kilter.core.errors import InsufficientData, InvalidInput
from kilter.evaluation import metrics
from kilter.evaluation.declare import accuracy, auc, brier, log_loss, precision, recall

RNG = np.random.default_rng(0)
Y = (RNG.random(3000) < 0.25).astype(float)
P = np.clip(RNG.beta(2, 5, 3000) + 0.15 * Y, 0.0, 1.0).round(3)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (log_loss, theirs.log_loss(Y, np.clip(P, 1e-15, 1 - 1e-15))),
        (brier, theirs.brier_score_loss(Y, P)),
        (auc, theirs.roc_auc_score(Y, P)),
        (recall, theirs.recall_score(Y, P >= 0.5)),
        (recall.at(0.3), theirs.recall_score(Y, P >= 0.3)),
        (precision.at(0.4), theirs.precision_score(Y, P >= 0.4)),
        (accuracy, theirs.accuracy_score(Y, P >= 0.5)),
    ],
    ids=lambda one: getattr(one, "name", None),
)
def test_metrics_agree_with_scikit_learn(metric, expected):
    assert metrics.value(metric, Y, P) == pytest.approx(expected, abs=1e-12)


def test_losses_of_rows_average_to_the_metric():
    for metric in (log_loss, brier):
        assert metrics.row_losses(metric, Y, P).mean() == pytest.approx(metrics.value(metric, Y, P))
    assert 1.0 - metrics.row_losses(accuracy, Y, P).mean() == pytest.approx(metrics.value(accuracy, Y, P))
    assert metrics.row_losses(auc, Y, P) is None


def test_a_sure_and_wrong_answer_is_dear_but_finite():
    assert metrics.value(log_loss, np.array([1.0]), np.array([0.0])) == pytest.approx(-np.log(1e-15))


def test_a_score_at_the_threshold_counts_as_positive():
    assert metrics.value(recall, np.array([1.0]), np.array([0.5])) == 1.0


def test_what_does_not_exist_is_no_number():
    ones = np.ones(3)
    assert np.isnan(metrics.value(auc, ones, ones))
    assert np.isnan(metrics.value(recall, 0 * ones, ones))
    assert np.isnan(metrics.value(precision, ones, 0 * ones))


@pytest.mark.parametrize(
    ("y", "p", "kind", "message"),
    [
        ([], [], InsufficientData, "no rows"),
        ([0.0, 1.0], [0.5], InvalidInput, "shape"),
        ([0.0, 2.0], [0.5, 0.5], InvalidInput, "1 labels are neither 0 nor 1"),
        ([0.0, np.nan], [0.5, 0.5], InvalidInput, "neither"),
        ([0.0, 1.0], [0.5, np.nan], InvalidInput, "1 of 2 predictions"),
        ([0.0, 1.0], [0.5, 1.5], InvalidInput, "no probabilities"),
    ],
)
def test_what_cannot_be_scored_says_why(y, p, kind, message):
    with pytest.raises(kind, match=message):
        metrics.value(brier, np.array(y), np.array(p))
