"""Pairs of images: what is found before training, and what the samples are."""

import os
import threading
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch

from gpen.data import scan, scan_cache
from gpen.data.image_io import read_image, write_image
from gpen.data.loader import build_dataset
from gpen.data.paired_dataset import PairedImageDataset
from gpen.data.storage.disk import DiskStorage
from gpen.errors import UserError
from gpen.registry import DATASET_REGISTRY

SIZE = 16
SHARED_FACES = Path(__file__).resolve().parents[1].parent / 'shared' / 'data' / 'faces256'


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return tmp_path / 'cache' / 'gpen'


def random_image(seed: int, height: int = SIZE, width: int = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (height, width, 3)).astype(np.float32)


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path]:
    return write_roots(tmp_path)


def write_roots(folder: Path) -> tuple[Path, Path]:
    """Write twelve pairs; one in a sub-folder, one with another suffix, one with two dots in its name."""
    sharp, blurry = folder / 'sharp', folder / 'blurry'
    names = [f'face{number:02d}' for number in range(9)] + ['more/face09', 'face10', 'face.11']
    for number, name in enumerate(names):
        write_image(sharp / f'{name}.png', random_image(number))
        write_image(blurry / f'{name}{".webp" if number == 10 else ".png"}', random_image(number) * 0.5)
    return sharp, blurry


def open_pairs(roots: tuple[Path, Path], size: int = SIZE, **options: object) -> PairedImageDataset:
    return PairedImageDataset(str(roots[0]), str(roots[1]), size, **options)  # type: ignore[arg-type]


def error_of(roots: tuple[Path, Path], **options: object) -> str:
    with pytest.raises(UserError) as caught:
        open_pairs(roots, **options)
    return str(caught.value)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def test_pairs_are_found_by_name_in_sub_folders_and_with_another_suffix(roots: tuple[Path, Path]) -> None:
    dataset = open_pairs(roots)
    assert len(dataset) == 12
    assert [dataset[index]['name'] for index in range(12)] == [
        'face.11',
        *(f'face{number:02d}' for number in range(9)),
        'face10',
        'face09',
    ]
    for index in range(12):
        sample = dataset[index]
        assert Path(sample['gt_path']).stem == Path(sample['lq_path']).stem == sample['name']


def test_sample_holds_both_images_as_they_are_in_the_files(roots: tuple[Path, Path]) -> None:
    sample = open_pairs(roots)[3]
    assert sample['lq'].shape == sample['gt'].shape == (3, SIZE, SIZE)
    assert sample['gt'].dtype == torch.float32
    for side in ('gt', 'lq'):
        assert (sample[side].permute(1, 2, 0).numpy() == read_image(Path(sample[f'{side}_path']))).all()


def test_images_are_resized_to_the_sizes_of_the_network(roots: tuple[Path, Path]) -> None:
    sample = open_pairs(roots, size=32, in_size=8)[0]
    assert sample['gt'].shape == (3, 32, 32)
    assert sample['lq'].shape == (3, 8, 8)
    assert max(sample['gt'].abs().max(), sample['lq'].abs().max()) <= 1


def test_lq_may_be_smaller_where_the_network_enlarges(roots: tuple[Path, Path]) -> None:
    for path in sorted(roots[1].rglob('*.*')):
        write_image(path, random_image(0, 4, 4))
    assert open_pairs(roots, in_size=4)[0]['lq'].shape == (3, 4, 4)
    assert 'face00.png is 16 x 16 but' in error_of(roots)
    assert 'face00.png is 16 x 16 but' in error_of(roots, in_size=8)


def test_input_larger_than_the_output_is_refused(roots: tuple[Path, Path]) -> None:
    assert 'in_size is 32, larger than size 16' in error_of(roots, in_size=32)


def test_hidden_files_and_other_files_are_left_out(roots: tuple[Path, Path]) -> None:
    (roots[0] / '._face00.png').write_bytes(b'resource fork')
    (roots[0] / '.thumbnails').mkdir()
    (roots[0] / '.thumbnails' / 'x.png').write_bytes(b'')
    (roots[0] / 'Thumbs.db').write_bytes(b'')
    assert len(open_pairs(roots)) == 12


def test_links_to_folders_are_followed_and_circles_end(roots: tuple[Path, Path], tmp_path: Path) -> None:
    for root in roots:
        outside = tmp_path / f'outside_{root.name}'
        write_image(outside / 'linked.png', random_image(1))
        (root / 'link').symlink_to(outside)
        (root / 'more' / 'circle').symlink_to(root)
    assert 'link/linked' in open_pairs(roots).keys


def test_name_written_with_a_combining_accent_is_the_same_name(tmp_path: Path) -> None:
    write_image(tmp_path / 'sharp' / 'Zoe\u0308.png', random_image(0))
    write_image(tmp_path / 'blurry' / 'Zo\u00eb.png', random_image(0))
    assert open_pairs((tmp_path / 'sharp', tmp_path / 'blurry'))[0]['gt'].shape == (3, SIZE, SIZE)


def test_missing_folders_are_both_named(tmp_path: Path) -> None:
    message = error_of((tmp_path / 'nowhere', tmp_path / 'neither'))
    assert str(tmp_path / 'nowhere') in message
    assert str(tmp_path / 'neither') in message


def test_empty_folder_is_named(roots: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / 'empty').mkdir()
    message = error_of((roots[0], tmp_path / 'empty'))
    assert f'there are no images in {tmp_path / "empty"}' in message
    assert 'no partner' not in message


def test_each_missing_partner_is_named_on_both_sides(roots: tuple[Path, Path]) -> None:
    (roots[1] / 'face03.png').unlink()
    (roots[0] / 'more' / 'face09.png').unlink()
    message = error_of(roots)
    assert f'no partner in {roots[1]} (1):\n      {roots[0] / "face03.png"}' in message
    assert f'no partner in {roots[0]} (1):\n      {roots[1] / "more" / "face09.png"}' in message


def test_long_lists_of_missing_partners_end_in_a_count(roots: tuple[Path, Path]) -> None:
    for number in range(13):
        write_image(roots[0] / f'lonely{number:02d}.png', random_image(0))
    message = error_of(roots)
    assert 'lonely09.png' in message
    assert 'lonely10.png' not in message
    assert '... and 3 more' in message


def test_two_files_of_one_name_are_named(roots: tuple[Path, Path]) -> None:
    write_image(roots[0] / 'face04.jpg', random_image(4))
    message = error_of(roots)
    assert f'{roots[0] / "face04.jpg"} and {roots[0] / "face04.png"} have the same name' in message


def test_truncated_png_is_named_before_training(roots: tuple[Path, Path]) -> None:
    cut_off(roots[0] / 'face05.png')
    assert f'{roots[0] / "face05.png"}: it is cut off' in error_of(roots)


def test_all_problems_come_in_one_message(roots: tuple[Path, Path]) -> None:
    cut_off(roots[0] / 'face00.png')
    cut_off(roots[1] / 'face10.webp')
    (roots[0] / 'face01.png').write_text('not an image')
    (roots[1] / 'face02.png').write_bytes(b'')
    write_image(roots[1] / 'face06.png', random_image(0, 20, 24))
    (roots[1] / 'face07.png').unlink()
    message = error_of(roots)
    for part in (
        f'{roots[0] / "face00.png"}: it is cut off',
        f'{roots[1] / "face10.webp"}: it is cut off',
        f'{roots[0] / "face01.png"}: it is not an image',
        f'{roots[1] / "face02.png"}: it is empty',
        f'{roots[0] / "face06.png"} is 16 x 16 but {roots[1] / "face06.png"} is 24 x 20',
        str(roots[0] / 'face07.png'),
    ):
        assert part in message
    assert 'face08' not in message


def test_file_without_permission_is_named(roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: DiskStorage, key: str) -> object:
        raise PermissionError(13, 'Permission denied', key)

    monkeypatch.setattr(DiskStorage, 'open', refuse)
    assert f'{roots[0] / "face00.png"}: it cannot be read (Permission denied)' in error_of(roots)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files whose header was read."""
    names: list[str] = []
    original = DiskStorage.open

    def count(storage: DiskStorage, key: str) -> object:
        names.append(storage.describe(key))
        return original(storage, key)

    monkeypatch.setattr(DiskStorage, 'open', count)
    return names


def test_second_scan_opens_no_unchanged_file(roots: tuple[Path, Path], opened: list[str]) -> None:
    open_pairs(roots)
    assert len(opened) == 24
    opened.clear()
    open_pairs(roots)
    assert opened == []
    write_image(roots[0] / 'face02.png', random_image(77))
    same_size = roots[1] / 'face04.png'
    os.utime(same_size, ns=(0, same_size.stat().st_mtime_ns + 1))
    open_pairs(roots)
    assert opened == [str(roots[0] / 'face02.png'), str(same_size)]


def test_cache_of_more_names_serves_those_that_are_left_and_those_that_are_new(
    roots: tuple[Path, Path], opened: list[str]
) -> None:
    open_pairs(roots)
    for root in roots:
        (root / 'face03.png').rename(root / 'away.txt')
        write_image(root / 'face\udcff.png', random_image(5))  # a name that is no UTF-8
        write_image(root / 'a\nb.png', random_image(6))
    opened.clear()
    assert len(open_pairs(roots)) == 13
    assert sorted(opened) == sorted(str(root / name) for root in roots for name in ('face\udcff.png', 'a\nb.png'))
    for root in roots:
        (root / 'away.txt').rename(root / 'face03.png')
    opened.clear()
    assert len(open_pairs(roots)) == 14
    assert opened == []


@pytest.mark.parametrize('slow', [0.0, 1e9], ids=['many at once', 'one by one'])
def test_files_are_asked_for_their_sizes_in_blocks(
    slow: float, roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = open_pairs(roots).scanned.stamps
    threads = set()
    real = DiskStorage.stats

    def stats(storage: DiskStorage, keys: list[str]) -> np.ndarray:
        threads.add(threading.get_ident())
        time.sleep(0.01)
        return real(storage, keys)

    monkeypatch.setattr(DiskStorage, 'stats', stats)
    monkeypatch.setattr(scan, '_BLOCK', 5)
    monkeypatch.setattr(scan, '_SLOW', slow)
    found = open_pairs(roots).scanned.stamps
    assert expected is not None
    assert found is not None
    assert np.array_equal(found.values, expected.values)
    assert (len(threads) > 3) == (slow == 0)  # this one, and one or more for each side


def test_file_damaged_after_a_good_scan_is_found(roots: tuple[Path, Path]) -> None:
    open_pairs(roots)
    cut_off(roots[1] / 'face08.png')
    assert 'face08.png: it is cut off' in error_of(roots)
    assert 'face08.png: it is cut off' in error_of(roots)  # damage is not forgotten either


def pack(version: int, names: list[str]) -> bytes:
    """A cache with a record of one image."""
    stream = BytesIO()
    text = np.frombuffer('\0'.join(names).encode(), np.uint8)
    np.savez(stream, version=version, names=text, records=np.ones((1, scan_cache.COLUMNS), np.int64))
    return stream.getvalue()


@pytest.mark.parametrize('content', [b'', b'garbage', pack(3, ['a'])[:-40], pack(2, ['a']), pack(3, ['a', 'b'])])
def test_damaged_cache_is_ignored_and_replaced(content: bytes, roots: tuple[Path, Path], cache_folder: Path) -> None:
    open_pairs(roots)
    files = sorted(cache_folder.iterdir())
    assert len(files) == 2
    for path in files:
        path.write_bytes(content)
    assert len(open_pairs(roots)) == 12
    assert all(b'face' in path.read_bytes() for path in files)


def test_cache_of_an_earlier_version_is_replaced(roots: tuple[Path, Path], cache_folder: Path) -> None:
    open_pairs(roots)
    old = [path.with_suffix('.json') for path in cache_folder.iterdir()]
    for path in old:
        path.with_suffix('.npz').unlink()
        path.write_text('{"version": 1, "files": {}}')
    assert len(open_pairs(roots)) == 12
    assert sorted(cache_folder.iterdir()) == sorted(path.with_suffix('.npz') for path in old)

    # One whose records mean something else
    target = old[0].with_suffix('.npz')
    content = dict(np.load(target))
    np.savez(target, **{**content, 'version': 2, 'records': content['records'] + [0, 0, 1, 1, 0]})
    assert len(open_pairs(roots)) == 12


def test_cache_that_cannot_be_written_is_no_cache(roots: tuple[Path, Path], cache_folder: Path) -> None:
    cache_folder.parent.write_text('a file where the folder should be')
    assert len(open_pairs(roots)) == 12


def test_user_without_a_home_has_no_cache(roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Path:
        raise RuntimeError('no home')

    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.setattr(scan_cache.Path, 'home', fail)
    assert len(open_pairs(roots)) == 12


def test_without_scan_bad_files_are_reported_with_their_name_when_met(roots: tuple[Path, Path]) -> None:
    cut_off(roots[0] / 'face00.png')
    write_image(roots[1] / 'face01.png', random_image(0, 24, 20))
    dataset = open_pairs(roots, scan=False)
    by_name = {Path(key).name: index for index, key in enumerate(dataset.keys)}
    with pytest.raises(UserError, match=r'sharp/face00\.png cannot be used: it is cut off'):
        dataset[by_name['face00']]
    with pytest.raises(UserError, match=r'face01\.png is 16 x 16 but .*face01\.png is 20 x 24'):
        dataset[by_name['face01']]
    (roots[0] / 'face02.png').unlink()
    with pytest.raises(UserError, match=r'face02\.png cannot be read'):
        dataset[by_name['face02']]


def test_flip_mirrors_both_images_and_depends_on_seed_epoch_and_index(roots: tuple[Path, Path]) -> None:
    plain, flipped = open_pairs(roots), open_pairs(roots, use_hflip=True, manual_seed=3)
    mirrored = []
    for epoch in range(4):
        for index in range(12):
            before, after = plain[epoch, index], flipped[epoch, index]
            is_mirrored = not torch.equal(before['gt'], after['gt'])
            for side in ('lq', 'gt'):
                assert torch.equal(after[side], before[side].flip(2) if is_mirrored else before[side])
            mirrored.append(is_mirrored)
    assert 12 < sum(mirrored) < 36
    assert mirrored[:12] != mirrored[12:24]
    assert torch.equal(flipped[5]['gt'], flipped[0, 5]['gt'])
    other = open_pairs(roots, use_hflip=True, manual_seed=4)
    assert any(not torch.equal(other[index]['gt'], flipped[index]['gt']) for index in range(12))


def test_flip_ignores_and_leaves_global_random_state(roots: tuple[Path, Path]) -> None:
    dataset = open_pairs(roots, use_hflip=True)
    first = [dataset[1, index]['gt'] for index in range(12)]
    np.random.seed(5)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert all(torch.equal(dataset[1, index]['gt'], first[index]) for index in range(12))
    assert torch.equal(torch.get_rng_state(), before)


def test_relative_roots_start_at_the_project(roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('gpen.utils.files.project_root', lambda: roots[0].parent)
    assert len(PairedImageDataset('sharp', 'blurry', SIZE)) == 12


@pytest.mark.parametrize('io_backend', [{'type': 'memcached'}, {'type': 'disk', 'client_keys': ['gt']}])
def test_unknown_io_backend_is_refused(io_backend: dict[str, object], roots: tuple[Path, Path]) -> None:
    assert 'io_backend' in error_of(roots, io_backend=io_backend)


def test_option_parser_sees_the_arguments() -> None:
    definition = DATASET_REGISTRY.find('PairedImageDataset')
    assert definition is not None
    required = [parameter.name for parameter in definition.parameters if parameter.required]
    assert required == ['dataroot_gt', 'dataroot_lq', 'size']
    assert {parameter.name: parameter.annotation for parameter in definition.parameters}['size'] == 'ImageSize'


def test_data_set_is_built_from_its_options(roots: tuple[Path, Path]) -> None:
    options = {'type': 'PairedImageDataset', 'dataroot_gt': str(roots[0]), 'dataroot_lq': str(roots[1]), 'size': SIZE}
    assert isinstance(build_dataset(options), PairedImageDataset)
    assert options['type'] == 'PairedImageDataset'
    with pytest.raises(UserError, match="Did you mean 'PairedImageDataset'"):
        build_dataset({**options, 'type': 'PairImageDataset'})


@pytest.mark.skipif(not SHARED_FACES.is_dir(), reason='the shared photographs are not here')
def test_real_photographs_pass_the_scan_quickly() -> None:
    dataset = PairedImageDataset(str(SHARED_FACES), str(SHARED_FACES), 64)
    assert len(dataset) > 100
    started = time.perf_counter()
    PairedImageDataset(str(SHARED_FACES), str(SHARED_FACES), 64)
    assert time.perf_counter() - started < 5
    assert 0.05 < dataset[0]['gt'].std() < 1
