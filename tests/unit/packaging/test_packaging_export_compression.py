"""What a smaller form costs, on answers where the result is known."""

import numpy as np
import pytest

from kilter.core.errors import GateRefused, InvalidInput
from kilter.packaging.compression import Limits, halves, require, score, table


def judge(answers, wanted, label="binary", size=50, **limits):
    return score("int8", bytes(size), np.array(answers), np.array(wanted), 100, label, Limits(**limits))


def test_loss_mean_and_flips_are_those_of_the_answers():
    found = judge([0.1, 0.49, 0.9], [0.1, 0.51, 0.8], loss=1.0)
    assert found.loss == pytest.approx(0.1)
    assert found.mean == pytest.approx(0.04)
    assert found.flips == pytest.approx(1 / 3)
    assert (found.size, found.share, found.rows, found.passed) == (50, 0.5, 3, True)
    assert found.packed < 50


def test_large_values_are_compared_in_their_own_units():
    assert judge([1010.0], [1000.0], "regression").loss == pytest.approx(0.01)
    assert judge([0.02], [0.01], "regression").loss == pytest.approx(0.01)


def test_several_classes_flip_with_the_likeliest():
    found = judge(
        [[0.5, 0.4, 0.1], [0.2, 0.3, 0.5]], [[0.4, 0.5, 0.1], [0.1, 0.3, 0.6]], "multiclass", loss=1.0, flips=0.4
    )
    assert found.flips == 0.5
    assert found.missed == ("40.00% of changed decisions, with 50.00%",)


def test_what_is_missed_is_refused_with_the_figures():
    assert judge([0.5], [0.4], loss=1.0, mean=0.05).missed == ("a loss of 0.05 on average, with 0.1",)
    found = judge([0.5], [0.4], loss=0.01, share=0.4)
    assert len(found.missed) == 2
    with pytest.raises(GateRefused, match=r"a loss of 0\.01, with 0\.1; 40% of the larger form's bytes, with 50%"):
        require(found)
    assert "missed" in table([found])[1]
    require(judge([0.4], [0.4]))


@pytest.mark.parametrize(("answers", "wanted"), [([np.nan], [0.5]), ([0.5], [np.nan])])
def test_an_answer_that_is_missing_is_infinitely_far(answers, wanted):
    assert not judge(answers, wanted, loss=1e9).passed


def test_sizes_in_bytes_are_limits_too():
    made = score("int8", bytes(50), np.array([0.1]), np.array([0.1]), 100, "binary", Limits(size=49, packed=1))
    assert len(made.missed) == 2


def test_what_can_not_be_judged_is_refused():
    for answers, wanted in (([], []), ([0.1], [0.1, 0.2])):
        with pytest.raises(InvalidInput):
            judge(answers, wanted)
    for wrong in ({"loss": -1.0}, {"flips": 2.0}, {"share": 0.0}, {"loss": float("nan")}):
        with pytest.raises(InvalidInput):
            Limits(**wrong)


def test_rows_that_make_a_form_do_not_judge_it():
    made, judging = halves(np.arange(5.0)[:, None])
    assert (made.ravel().tolist(), judging.ravel().tolist()) == ([0, 2, 4], [1, 3])
    assert all(len(one) == 1 for one in halves(np.ones((1, 2))))
