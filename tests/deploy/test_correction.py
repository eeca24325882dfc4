"""From pieces to the whole: exact where the sum is, and what one piece takes more is found to be its own."""

import numpy as np
import pytest

from deploy.correction import LEAST, corrected, left_out_errors


def costs(models=12, pieces=3):
    return np.random.default_rng(0).uniform(0.1, 1.0, (models, pieces))


def test_a_sum_that_is_right_but_for_factor_and_offset():
    taken = 0.05 + 1.5 * costs().sum(1)
    found = corrected(costs(), taken)
    assert found.factor == pytest.approx(1.5) and found.offset == pytest.approx(0.05)
    np.testing.assert_allclose(found.scales, 1.0)
    assert left_out_errors(costs(), taken).max() < 1e-9


def test_what_one_piece_takes_more_in_the_whole_is_given_to_it():
    taken = 0.05 + costs() @ [1.0, 1.0, 1.6]
    found = corrected(costs(), taken)
    assert found.scales[2] / found.scales[0] == pytest.approx(1.6, rel=0.1)
    assert found.scales[0] == pytest.approx(found.scales[1], rel=0.1)
    plain = np.abs((found.offset + found.factor * costs().sum(1)) / taken - 1)
    assert np.median(left_out_errors(costs(), taken)) < 0.3 * np.median(plain)


def test_pieces_that_come_and_go_together_share_it():
    same = costs(pieces=2)[:, [0, 1, 1]]
    found = corrected(same, same @ [1.0, 1.0, 1.6])
    assert found.scales[1] == pytest.approx(found.scales[2])


def test_a_piece_of_which_nothing_is_known_keeps_its_scale_and_none_is_believed_to_cost_nothing():
    silent = np.column_stack([costs(pieces=2), np.zeros(12)])
    assert corrected(silent, silent @ [1.0, 1.4, 1.0]).scales[2] == 1.0
    assert corrected(costs(), costs() @ [1.0, 1.0, 0.0]).scales.min() == LEAST
