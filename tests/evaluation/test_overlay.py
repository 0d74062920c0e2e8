"""The curves beside an episode's pictures."""

from __future__ import annotations

import imageio.v2 as imageio
import numpy as np
import pytest

from dtbench.evaluation.overlay import beside_curves
from dtbench.evaluation.video import record
from tests.evaluation.test_video import Still, grey, protocol  # noqa: F401 - a fixture

STEPS = 5


def pictures(height: int = 65, width: int = 63) -> list[np.ndarray]:
    return [np.full((height, width, 3), 10 * step, np.uint8) for step in range(STEPS)]


def coloured(picture: np.ndarray) -> int:
    """Count the pixels that are no shade of grey: those of the lines."""
    values = picture.astype(int)
    return int((values.max(-1) - values.min(-1) > 60).sum())


@pytest.mark.parametrize("height", [65, 480])
def test_pictures_are_kept_and_of_even_size(height):
    made = list(beside_curves(pictures(height), [3.0, 2.0, 1.0, 0.0, -1.0], [1.0] * STEPS))
    shapes = {picture.shape for picture in made}
    assert len(made) == STEPS
    assert len(shapes) == 1
    ((rows, columns, channels),) = shapes
    assert (rows % 2, columns % 2, channels) == (0, 0, 3)
    assert rows >= height
    for step, picture in enumerate(made):
        assert picture[rows // 2, 30].tolist() == [10 * step] * 3


def test_the_curves_grow_and_are_those_of_the_values():
    made = [
        picture[:, 64:] for picture in beside_curves(pictures(), [9.0, 8.0, 6.0, 3.0, -1.0], [1.0, 2.0, 3.0, 4.0, 5.0])
    ]
    counts = [coloured(picture) for picture in made]
    assert counts == sorted(counts)
    assert counts[-1] > 2 * counts[0] > 0
    others = [picture[:, 64:] for picture in beside_curves(pictures(), [9.0, 9.0, 9.0, 9.0, 9.0], [1.0] * STEPS)]
    assert not np.array_equal(made[-1], others[-1])


def test_a_video_with_curves(grey, tmp_path):  # noqa: F811
    done = record(Still(), protocol(grey), 5.0, tmp_path / "film.mp4", overlay=True)
    reader = imageio.get_reader(tmp_path / "film.mp4")
    assert reader.count_frames() == done.lengths[0] == 7
    width, height = reader.get_meta_data()["size"]
    assert width > 64 + 300
    assert height >= 360
