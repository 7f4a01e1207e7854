"""Tests of class prediction from codes."""

import numpy as np
import pytest

from workbench.analysis.generation.class_prediction import class_prediction
from workbench.core.errors import NotApplicable, UserError


def test_accuracy_confusion_and_chance():
    labels = np.array([0, 0, 0, 1, 1, 2])
    result = class_prediction(
        np.array([0, 0, 1, 1, 1, 0]), labels, np.float32([3.5]), ("a", "b", "c")
    )
    assert result.accuracy == pytest.approx(4 / 6) and result.chance == 0.5 and result.bits == 3.5
    assert result.confusion.tolist() == [[2, 1, 0], [0, 2, 0], [1, 0, 0]]
    assert result.table()["most confused with"].tolist() == ["b", "", "a"]
    for number in ("66.7%", "50.0%", "3.50 bits"):
        assert number in result.summary()


def test_unnamed_and_absent_classes():
    result = class_prediction(np.array([3]), np.array([3]))
    assert (
        result.classes == ("0", "1", "2", "3")
        and result.accuracy == 1
        and result.low == result.high == 1
    )
    assert result.table()["images"].tolist() == [0, 0, 0, 1]
    assert result.figure().data


def test_mismatched_or_missing_labels_raise():
    with pytest.raises(UserError, match="2 .* 1 "):
        class_prediction(np.array([1]), np.array([1, 2]))
    with pytest.raises(NotApplicable):
        class_prediction(np.array([], np.int64), np.array([], np.int64))
