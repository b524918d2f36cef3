"""Sharp faces that are degraded on the fly: samples, options, the preview."""

from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from conftest import degraded_options, run_code, write_options, write_pairs
from gpen.data.cells import GAP, LINE
from gpen.data.degraded_dataset import DegradedFaceDataset
from gpen.data.image_io import read_image, resize, to_array
from gpen.data.loader import build_dataset, build_train_loader
from gpen.errors import UserError
from gpen.options import parse_options

STEPS = [
    {'type': 'blur', 'kernel_size': 7, 'sigma': [0.5, 2]},
    {'type': 'gaussian_noise', 'sigma': [5, 20]},
    {'type': 'jpeg', 'quality': [30, 90], 'probability': 0.7},
]


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    write_pairs(tmp_path / 'faces', 7, size=32)
    return tmp_path / 'faces' / 'sharp'


def build(faces: Path, **arguments: object) -> DegradedFaceDataset:
    arguments = {'degradation': STEPS, 'size': 32, 'manual_seed': 5, **arguments}
    return DegradedFaceDataset(str(faces), **arguments)  # type: ignore[arg-type]


def test_sample_holds_the_sharp_image_of_the_file_and_a_degraded_one(faces: Path) -> None:
    sample = build(faces)[0, 2]
    gt = cv2.imread(str(faces / '002.png'))[:, :, ::-1].astype(np.float32) / 127.5 - 1
    assert torch.allclose(sample['gt'], torch.from_numpy(gt.transpose(2, 0, 1).copy()), atol=1e-6)
    assert sample['name'] == '002'
    assert sample['gt_path'] == sample['lq_path'] == str(faces / '002.png')
    assert sample['lq'].shape == sample['gt'].shape
    assert sample['lq'].dtype == torch.float32
    assert sample['lq'].abs().max() <= 1
    assert 0.01 < (sample['lq'] - sample['gt']).abs().mean() < 0.5


def test_draws_depend_on_seed_epoch_and_index_alone(faces: Path) -> None:
    dataset = build(faces)
    first = dataset[0, 1]['lq']
    np.random.seed(1)
    dataset[3, 6]
    assert torch.equal(dataset[0, 1]['lq'], first)
    assert torch.equal(build(faces)[0, 1]['lq'], first)
    assert torch.equal(dataset[1]['lq'], first)
    assert not torch.equal(dataset[1, 1]['lq'], first)
    assert not torch.equal(build(faces, manual_seed=6)[0, 1]['lq'], first)


def test_validation_sees_the_same_degradation_each_time(faces: Path) -> None:
    from gpen.data.loader import build_val_loader

    loader = build_val_loader(build(faces), batch_size=3, num_workers=0)
    first, second = ([batch['lq'] for batch in loader] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(('workers', 'method'), [(1, 'fork'), (2, 'fork'), (1, 'spawn')])
def test_batches_of_an_epoch_are_the_same_for_any_worker_count(faces: Path, workers: int, method: str) -> None:
    def batches(count: int, start: int = 0) -> list[torch.Tensor]:
        loader = build_train_loader(
            build(faces, use_hflip=True), 2, count, 5, start, end_iteration=6, start_method=method if count else None
        )
        return [batch['lq'] for batch in loader]

    plain = batches(0)
    assert len({float(batch.sum()) for batch in plain}) == 6
    assert all(torch.equal(a, b) for a, b in zip(plain, batches(workers), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(plain[4:], batches(workers, start=4), strict=True))


def test_augmentation_changes_both_images(faces: Path) -> None:
    sample = build(faces, augment={'type': 'grayscale'}, degradation={'type': 'blur', 'sigma': [1, 1]})[0, 0]
    for image in (sample['gt'], sample['lq']):
        assert torch.allclose(image[0], image[1], atol=1e-6)
        assert torch.allclose(image[0], image[2], atol=1e-6)


def test_mirroring_changes_both_images(faces: Path) -> None:
    plain, mirrored = (build(faces, degradation={'type': 'blur', 'sigma': [1, 1]}, use_hflip=flip) for flip in (0, 1))
    flips = 0
    for index in range(7):
        pair, other = plain[0, index], mirrored[0, index]
        flipped = torch.equal(pair['gt'].flip(2), other['gt'])
        flips += flipped
        assert flipped or torch.equal(pair['gt'], other['gt'])
        assert torch.allclose(pair['lq'].flip(2) if flipped else pair['lq'], other['lq'], atol=1e-5)
    assert 0 < flips < 7


def test_input_may_be_smaller_than_the_output(faces: Path) -> None:
    sample = build(faces, in_size=16)[0]
    assert sample['lq'].shape == (3, 16, 16)
    assert sample['gt'].shape == (3, 32, 32)
    with pytest.raises(UserError, match='in_size is 64, larger than size 32'):
        build(faces, in_size=64)


def test_data_set_can_be_sent_to_another_process(faces: Path) -> None:
    dataset = build(faces, degradation={'type': 'one_of', 'steps': [*STEPS, {'type': 'in_any_order', 'steps': STEPS}]})
    sent = ForkingPickler.loads(ForkingPickler.dumps(dataset))
    assert torch.equal(sent[2, 3]['lq'], dataset[2, 3]['lq'])


def test_damaged_and_missing_images_are_named_before_training(faces: Path, tmp_path: Path) -> None:
    whole = (faces / '003.png').read_bytes()
    (faces / '003.png').write_bytes(whole[:-40])
    (faces / '004.png').write_bytes(b'')
    with pytest.raises(UserError) as caught:
        build(faces)
    assert '003.png: it is cut off' in str(caught.value)
    assert '004.png: it is empty' in str(caught.value)
    with pytest.raises(UserError, match=r'003\.png cannot be used: it is cut off'):
        build(faces, scan=False)[3]
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match='there are no images'):
        build(tmp_path / 'empty')


def test_steps_that_cannot_be_done_are_told_before_training(faces: Path) -> None:
    seldom = {'type': 'resize', 'up_down_keep': [1, 0], 'probability': 0.001}
    for arguments in ({'degradation': [seldom]}, {'augment': {'type': 'one_of', 'steps': [seldom]}}):
        with pytest.raises(UserError, match=r'resize: up_down_keep is \[1, 0\]; it needs 3 numbers'):
            build(faces, **arguments)


def errors_of(tmp_path: Path, data: Path, degradation: object) -> str:
    path = write_options(tmp_path / 'degraded.yml', degraded_options(data, tmp_path, degradation))
    with pytest.raises(UserError) as caught:
        parse_options(path)
    return str(caught.value)


def test_data_set_takes_size_and_seed_from_the_options(tiny_data: Path, tmp_path: Path) -> None:
    path = write_options(tmp_path / 'degraded.yml', degraded_options(tiny_data, tmp_path, {'type': 'gfpgan'}))
    block = parse_options(path).options.datasets.train
    assert block is not None
    dataset = build_dataset(block.to_dict())
    assert (dataset.size, dataset.in_size, dataset.manual_seed) == (16, 16, 3)
    assert dataset[0]['lq'].shape == (3, 16, 16)


@pytest.mark.parametrize(
    ('degradation', 'place', 'message'),
    [
        ({'type': 'gfpgen'}, 'train.degradation.type', "no degradation named 'gfpgen'. Did you mean 'gfpgan'?"),
        ({'type': 'gfpgan', 'jpg_range': [1, 2]}, 'train.degradation.jpg_range', "Did you mean 'jpeg_range'?"),
        ([{'type': 'jpeg', 'quality': [90, 20]}], 'train.degradation.0.quality', 'a range [lowest, highest]'),
        ([{'type': 'jpeg', 'quality': [0, 20]}], 'train.degradation.0.quality.0', 'greater than or equal to 1'),
        ([{'type': 'blur', 'kernel_size': 4}], 'train.degradation.0.kernel_size', 'should be odd'),
        ({'type': 'jpeg', 'probability': 1.5}, 'train.degradation.probability', 'less than or equal to 1'),
        (
            {'type': 'in_any_order', 'steps': [{'type': 'jpg'}]},
            'train.degradation.steps.0.type',
            "Did you mean 'jpeg'?",
        ),
        ({'quality': [1, 2]}, 'train.degradation', 'should be a degradation, such as {type: gfpgan}'),
        ('gfpgan', 'train.degradation', 'should be a degradation, such as {type: gfpgan}'),
        ([], 'train.degradation', 'should be a degradation, such as {type: gfpgan}'),
    ],
)
def test_mistakes_in_a_degradation_are_shown_with_their_place(
    degradation: object, place: str, message: str, tmp_path: Path, tiny_data: Path
) -> None:
    text = errors_of(tmp_path, tiny_data, degradation)
    lines = [line for line in text.splitlines() if f'datasets.{place}: ' in line]
    assert len(lines) == 1, text
    assert message in lines[0]
    assert 'degraded.yml:' in lines[0]


def test_all_mistakes_in_nested_steps_come_together(tmp_path: Path, tiny_data: Path) -> None:
    steps = [{'type': 'blur', 'sigmas': [1, 2]}, {'type': 'one_of', 'steps': [{'type': 'jpeg', 'quality': 'high'}]}]
    text = errors_of(tmp_path, tiny_data, steps)
    assert 'train.degradation.0.sigmas' in text
    assert 'train.degradation.1.steps.0.quality: should be a list' in text


def test_preview_shows_the_sharp_faces_as_they_are_and_the_draws_of_training_under_headings(
    tiny_data: Path, tmp_path: Path
) -> None:
    options = degraded_options(tiny_data, tmp_path, STEPS)
    options['datasets']['train'] |= {'use_hflip': True, 'augment': {'type': 'color_jitter', 'brightness': [2, 2]}}
    path = write_options(tmp_path / 'degraded.yml', options)
    sheet = tmp_path / 'sheet.png'
    result = run_code('scripts/preview_degradation.py', '-opt', path, '--images', 3, '--draws', 2, '--output', sheet)
    assert result.returncode == 0, result.stderr
    assert str(sheet) in result.stdout
    picture = cv2.imread(str(sheet))[:, :, ::-1]
    cell, top = 128 + GAP, LINE + GAP  # images of 16 pixels are shown eight times as large
    assert picture.shape == (top + 3 * cell, GAP + 3 * cell, 3)
    assert all((picture[:top, GAP + n * cell : GAP + (n + 1) * cell] < 128).any() for n in range(3))
    block = parse_options(path).options.datasets.train
    assert block is not None
    dataset = build_dataset(block.to_dict())
    for row, index in enumerate([0, 2, 4]):
        corners = [(top + row * cell + 4, GAP + column * cell + 4) for column in range(3)]
        shown = [picture[y : y + 128 : 8, x : x + 128 : 8] for y, x in corners]
        stored = read_image(sorted((tiny_data / 'train' / 'sharp').iterdir())[index])
        draws = [to_array(dataset[epoch, index]['lq']) for epoch in range(2)]
        for one, other in zip(shown, [resize(stored, 16), *draws], strict=True):
            assert np.abs(one / 127.5 - 1 - other).max() < 1 / 127


def test_preview_of_pairs_says_that_nothing_is_drawn(option_file: Path) -> None:
    result = run_code('scripts/preview_degradation.py', '-opt', option_file)
    assert result.returncode == 2
    assert 'datasets.train is a PairedImageDataset, which draws nothing' in result.stderr
