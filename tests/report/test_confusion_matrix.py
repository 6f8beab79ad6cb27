"""The picture of a confusion matrix."""

import cv2
import numpy as np
import pytest
import torch

from etc.report.confusion_matrix import row_shares, write_confusion


def test_rows_are_shares_of_the_labelled_pixels_and_absent_classes_have_none():
    shares = row_shares(torch.tensor([[3, 1, 0], [0, 0, 0], [2, 2, 4]]))
    np.testing.assert_allclose(shares, [[0.75, 0.25, 0], [np.nan] * 3, [0.25, 0.25, 0.5]])


def test_a_picture_of_19_classes_has_a_dark_cell_where_all_pixels_of_a_class_went(tmp_path):
    counts = torch.zeros(19, 19, dtype=torch.int64)
    counts[:, 4] = 7  # everything is taken for class 4
    write_confusion(counts, [f"class {i}" for i in range(19)], tmp_path / "new/confusion.png")
    picture = cv2.imread(str(tmp_path / "new/confusion.png"))
    assert min(picture.shape[:2]) > 1000  # 19 cells of 50 pixels each
    full = (picture[..., 0] - picture[..., 2].astype(int) > 80) & (picture[..., 2] < 30)  # the dark end of the blues
    columns = np.flatnonzero(full.sum(0) > 0.5 * picture.shape[0])
    assert 40 <= len(columns) <= 60, "one column of cells and nothing else"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["confusion.png"]


def test_counts_that_do_not_fit_the_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\[3, 3\], there are 2 names"):
        write_confusion(torch.zeros(3, 3, dtype=torch.int64), ["a", "b"], tmp_path / "confusion.png")
