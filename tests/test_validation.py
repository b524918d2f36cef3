"""What a validation gives: the mean of each metric, and a sheet of as many pictures as are asked for."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from gpen.errors import UserError
from gpen.evaluation.validation import ValidationResult, arrange_in_grid, make_strip, validate
from gpen.metrics import SetMetric

SIZE = 8


def batches(count: int = 3) -> list[dict[str, Any]]:
    """Batches of two grey images each; image n has level n / 10, and its input is half as large and bright."""
    levels = [torch.full((3, SIZE, SIZE), n / 10) for n in range(2 * count)]
    pairs = [torch.stack(levels[start : start + 2]) for start in range(0, 2 * count, 2)]
    return [
        {'gt': gt, 'lq': gt[..., ::2, ::2] / 2, 'name': [f'{number}a', f'{number}b']} for number, gt in enumerate(pairs)
    ]


def enlarge(lq: Tensor) -> Tensor:
    return torch.nn.functional.interpolate(lq, scale_factor=2)


def difference(restored: Tensor, gt: Tensor) -> Tensor:
    """Per image; not defined for a black one."""
    error = (restored - gt).abs().mean(dim=(1, 2, 3))
    return torch.where(gt.mean(dim=(1, 2, 3)) > 0, error, math.nan)


class Count(SetMetric):
    higher_is_better = True

    def start(self) -> None:
        self.count = 0

    def update(self, restored: Tensor, target: Tensor) -> None:  # noqa: ARG002
        self.count += len(restored)

    def compute(self) -> float:
        return float(self.count)


def look(num_pictures: int, **arguments: Any) -> ValidationResult:
    options: dict[str, Any] = {'metrics': {'l1': difference, 'count': Count()}, **arguments}
    result = validate(options.pop('restore', enlarge), batches(), options.pop('metrics'), 3, num_pictures, **options)
    assert result is not None
    return result


def test_a_mean_is_that_of_the_images_that_have_a_value_and_the_others_are_counted() -> None:
    result = look(0)
    assert result.means == {'l1': pytest.approx((0.05 + 0.1 + 0.15 + 0.2 + 0.25) / 5), 'count': 6}
    assert [row['name'] for row in result.rows] == ['0a', '0b', '1a', '1b', '2a', '2b']
    assert [row['l1'] for row in result.rows[1:]] == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.25])
    assert result.notes == ['l1 is not defined for 1 of 6 images; the mean omits them.']
    assert result.sheet is None


def test_a_metric_that_no_image_has_a_value_for_is_not_a_number() -> None:
    result = look(0, metrics={'none': lambda restored, _: torch.full((len(restored),), math.nan)})
    assert math.isnan(result.means['none'])
    assert result.notes == ['none is not defined for 6 of 6 images; the mean omits them.']


@pytest.mark.parametrize('value', [math.inf, -math.inf])
def test_an_infinite_value_is_named_and_not_part_of_the_mean(value: float) -> None:
    def metric(restored: Tensor, gt: Tensor) -> Tensor:
        return torch.where(gt.mean(dim=(1, 2, 3)) > 0.45, value, difference(restored, gt))

    result = look(0, metrics={'m': metric})
    assert result.means == {'m': pytest.approx((0.05 + 0.1 + 0.15 + 0.2) / 4)}
    assert len(result.faults) == 1
    assert result.faults[0].startswith('m is infinite for 1 of 6 images (2b), ')
    assert not result.is_spoilt

    # Where there is no other value, it is the mean.
    all_alike = look(0, metrics={'m': lambda restored, _: torch.full((len(restored),), value)})
    assert all_alike.means == {'m': value}


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_restored_images_that_are_not_finite_are_named_and_no_metric_counts(value: float) -> None:
    def restore(lq: Tensor) -> Tensor:
        images = enlarge(lq)
        images[1, 0, 0, 0] = torch.where(lq.mean() > 0.1, value, images[1, 0, 0, 0])
        return images

    result = look(3, restore=restore)
    assert result.is_spoilt
    assert all(math.isnan(mean) for mean in result.means.values())
    assert [math.isnan(row['l1']) for row in result.rows] == [True, False, False, True, False, True]
    assert len(result.faults) == 1
    assert 'not finite for 2 of 6 images (1b, 2b)' in result.faults[0]


@pytest.mark.parametrize(('asked', 'shown'), [(1, 1), (3, 3), (6, 6), (9, 6)])
def test_the_sheet_has_a_row_for_each_picture_that_is_asked_for(asked: int, shown: int) -> None:
    sheet = look(asked).sheet
    assert sheet is not None
    assert sheet.shape == (3, SIZE * shown, 3 * SIZE)
    assert sheet.dtype == torch.uint8
    levels = sheet[0, ::SIZE, ::SIZE]  # a pixel of each picture
    expected = torch.tensor([[(n / 20 + 1) * 127.5, (n / 20 + 1) * 127.5, (n / 10 + 1) * 127.5] for n in range(shown)])
    assert (levels - expected).abs().max() <= 0.5


@pytest.mark.parametrize(('asked', 'looked_at'), [(0, 0), (2, 1), (3, 2), (99, 3)])
def test_without_metrics_only_as_many_batches_are_restored_as_are_shown(asked: int, looked_at: int) -> None:
    seen: list[Tensor] = []
    look(asked, metrics={}, restore=lambda lq: seen.append(lq) or enlarge(lq))
    assert len(seen) == looked_at


def test_a_stop_between_two_batches_gives_it_up() -> None:
    seen: list[Tensor] = []
    restore = lambda lq: seen.append(lq) or enlarge(lq)  # noqa: E731
    assert validate(restore, batches(), {'l1': difference}, 3, 1, should_stop=lambda: len(seen) == 2) is None
    assert len(seen) == 2


def test_each_batch_has_random_numbers_of_its_own_which_are_the_same_each_time() -> None:
    def noise(lq: Tensor) -> Tensor:
        return torch.rand(len(lq), 3, SIZE, SIZE)

    first, again = (look(6, restore=noise).sheet for _ in range(2))
    assert first is not None
    assert again is not None
    assert torch.equal(first, again)
    assert not torch.equal(first[:, :SIZE, SIZE : 2 * SIZE], first[:, 2 * SIZE : 3 * SIZE, SIZE : 2 * SIZE])


def test_images_of_another_size_are_refused_with_width_before_height() -> None:
    with pytest.raises(UserError, match='makes images of 16 x 4, but the sharp ones are 8 x 8'):
        look(1, restore=lambda lq: torch.zeros(len(lq), 3, 4, 16))


def test_a_smaller_input_is_enlarged_without_smoothing() -> None:
    lq, gt = torch.tensor([[-1.0, 1.0], [1.0, -1.0]]).expand(3, 2, 2), torch.zeros(3, 4, 4)
    strip = make_strip(lq, gt + 1, gt - 1)
    assert strip.shape == (3, 4, 12)
    assert strip[0, 0].tolist() == [0, 0, 255, 255, *[255] * 4, *[0] * 4]
    assert strip[0, 3].tolist() == [255, 255, 0, 0, *[255] * 4, *[0] * 4]
    assert make_strip(gt, gt, gt).shape == (3, 4, 12)


@pytest.mark.parametrize(
    ('count', 'rows', 'columns'), [(1, 1, 1), (2, 1, 2), (3, 2, 2), (4, 2, 2), (5, 2, 3), (10, 3, 4)]
)
def test_places_of_a_grid_that_are_left_over_stay_black(count: int, rows: int, columns: int) -> None:
    grid = arrange_in_grid([torch.full((3, 2, 2), n + 1) for n in range(count)])
    assert grid.shape == (3, 2 * rows, 2 * columns)
    assert grid[0, ::2, ::2].flatten().tolist() == [*range(1, count + 1), *[0] * (rows * columns - count)]
