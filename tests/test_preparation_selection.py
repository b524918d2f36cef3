"""Names, filters, near duplicates, people, and the split between training and validation."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import SHARED
from gpen.errors import UserError
from gpen.preparation.photos import list_photos
from gpen.preparation.selection import Entry, list_entries, mark_duplicates, name_faces, reject, stable_number
from gpen.preparation.settings import PreparationSettings
from gpen.preparation.splitting import group_photos, split_groups
from gpen.preparation.work import FoundFace, PhotoRecord

GROUPS = r'^(canada|london)(?:smile)?_(\d+)'
GOOD = FoundFace(
    box=(10, 10, 110, 110), score=0.99, sharpness=5.0, pose=(0, 0, 0), padding=0.0, scale=1.0, fingerprint=0
)
SETTINGS = PreparationSettings(
    Path('in'), Path('out'), {'type': 'simple'}, min_face=50, min_score=0.95, min_sharpness=1.0, duplicates=-1
)


def entry(name: str, **changes: Any) -> Entry:
    return Entry(f'{name}.jpg', 0, replace(GOOD, **changes), Path(f'{name}.png'), name)


def split(keys: list[str], share: float = 0.25, pattern: str | None = None, seed: int = 1) -> dict[str, str | None]:
    groups = group_photos(keys, pattern)
    entries = [Entry(key, 0, GOOD, None, key, group=groups[key]) for key in keys]
    split_groups(entries, share, seed, pattern)
    return {entry.key: entry.split for entry in entries}


def test_name_is_the_path_and_the_number_of_the_face_where_there_are_several() -> None:
    names = name_faces({'canada_001f.png': 1, 'trip 2/lake & me.JPG': 2, 'Zoë/面孔.jpg': 1, 'none.jpg': 0})
    assert names == {
        'canada_001f.png': ['canada_001f'],
        'trip 2/lake & me.JPG': ['trip_2_lake_me_0', 'trip_2_lake_me_1'],
        'Zoë/面孔.jpg': ['Zoë_面孔'],
        'none.jpg': [],
    }


@pytest.mark.parametrize(
    'counts',
    [
        {'a/b.jpg': 1, 'a_b.jpg': 1},
        {'a.jpg': 1, 'a.png': 1},
        {'a.jpg': 1, 'A.jpg': 1},
        {'a.jpg': 2, 'a_0.jpg': 1},
        {'a.jpg': 2, 'a_.jpg': 2, 'a__0.jpg': 1},
        {'e\u0301.jpg': 1, 'é.jpg': 1},
        dict.fromkeys(['a\udcff.jpg', 'a\udcfe.jpg'], 1),
        {f'{"x" * 200}{n}.jpg': 1 for n in range(3)},
        {'a/b.jpg': 1, 'a_b.jpg': 1, f'{name_faces({"a/b.jpg": 1, "a_b.jpg": 1})["a/b.jpg"][0]}.jpg': 1},
    ],
)
def test_two_faces_never_share_a_name(counts: dict[str, int]) -> None:
    names = [name for group in name_faces(counts).values() for name in group]
    assert len({name.casefold() for name in names}) == sum(counts.values())
    assert all(len(f'.{name}.png.12345678.tmp'.encode()) <= 255 for name in names)


def test_name_holds_no_path_and_a_name_that_is_alone_depends_on_no_other() -> None:
    (name,) = name_faces({'../..\\x/\n:*.jpg': 1})['../..\\x/\n:*.jpg']
    assert not set(name) & set('/\\:*\n')
    assert name[0] != '.'
    assert name_faces({'a.jpg': 1})['a.jpg'] == name_faces({'a.jpg': 1, 'b.jpg': 3})['a.jpg']


def test_faces_are_listed_by_photograph_in_whatever_order_they_were_found() -> None:
    records = [PhotoRecord(f'{n}.jpg', (GOOD, GOOD), (Path('x'), Path('y'))) for n in range(3)]
    assert list_entries(records) == list_entries(records[::-1])
    assert [entry.name for entry in list_entries(records)] == ['0_0', '0_1', '1_0', '1_1', '2_0', '2_1']


@pytest.mark.parametrize(
    ('changes', 'reason'),
    [
        ({}, None),
        ({'box': (0, 0, 49, 80)}, 'too small'),
        ({'problem': 'not the largest'}, 'not the largest'),
        ({'score': 0.5}, 'low score'),
        ({'pose': (-70, 0, 0)}, 'too turned'),
        ({'pose': (0, 65, 0)}, 'too turned'),
        ({'pose': (0, 0, 90)}, None),  # alignment turns it upright
        ({'padding': 0.6}, 'too much padding'),
        ({'sharpness': 0.5}, 'too blurred'),
        ({'score': None, 'pose': None}, None),  # aligned images were not measured so
    ],
)
def test_each_filter_rejects_what_it_is_for(changes: dict[str, Any], reason: str | None) -> None:
    face = entry('a', **changes)
    reject([face], SETTINGS)
    assert face.reason == reason


def test_sharpest_of_near_duplicates_is_kept_and_of_equals_the_first_by_name() -> None:
    faces = [
        entry('c', fingerprint=0b0000, sharpness=3.0),
        entry('b', fingerprint=0b0111, sharpness=9.0),
        entry('a', fingerprint=1 << 40, sharpness=9.0),
        entry('d', fingerprint=0b1111 << 60, sharpness=4.0),
        entry('e', fingerprint=0b1111 << 60, sharpness=4.0),
    ]
    for order in (faces, faces[::-1]):
        for face in order:
            face.reason = face.duplicate_of = None
        mark_duplicates(order, 2)
        assert {face.name: face.duplicate_of for face in faces} == {'a': None, 'b': None, 'c': 'a', 'd': None, 'e': 'd'}
        assert [face.name for face in faces if face.reason == 'near duplicate'] == ['c', 'e']


@pytest.mark.parametrize('bits', [-1, 0, 3, 7, 16])
def test_near_duplicates_are_those_that_comparing_all_pairs_finds(bits: int) -> None:
    generator = np.random.default_rng(bits + 1)
    faces = []
    for number in range(120):
        code = int(generator.integers(1 << 62)) if number % 4 == 0 else faces[-1].face.fingerprint
        for bit in generator.integers(0, 64, generator.integers(0, 9)):
            code ^= 1 << int(bit)
        faces.append(entry(f'{number:03d}', fingerprint=code, sharpness=float(generator.integers(3))))
    mark_duplicates(faces, bits)
    kept: list[Entry] = []
    for face in sorted(faces, key=lambda face: (-face.face.sharpness, face.name)):
        is_new = all(bin(face.face.fingerprint ^ other.face.fingerprint).count('1') > bits for other in kept)
        assert (face.reason is None) == is_new
        kept += [face] if is_new else []
    assert bits < 0 or 0 < len(kept) < len(faces)


def test_both_pictures_of_a_person_are_one_group_and_sets_stay_apart() -> None:
    keys = ['london_003_03.png', 'londonsmile_003_08.png', 'canada_003f.png']
    assert group_photos(keys, GROUPS) == {
        'london_003_03.png': ('london', '003'),
        'londonsmile_003_08.png': ('london', '003'),
        'canada_003f.png': ('canada', '003'),
    }
    assert group_photos(['anna/1.jpg', 'anna/2.jpg'], '^([^/]+)/') == {'anna/1.jpg': ('anna',), 'anna/2.jpg': ('anna',)}


@pytest.mark.parametrize(
    ('pattern', 'message'), [('(', 'not a regular'), ('london', 'no group'), (r'(\d{9})', 'does not fit')]
)
def test_unusable_pattern_is_explained(pattern: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        group_photos(['london_001_03.png'], pattern)


@pytest.mark.parametrize('share', [0.001, 0.1, 0.5, 0.999])
def test_share_of_the_people_is_validated_on_at_least_one_and_not_all(share: float) -> None:
    keys = [f'{person}_{n}.jpg' for person in range(10) for n in range(3)]
    found = split(keys, share, r'^(\d+)_')
    people = {wanted: {key[0] for key in keys if found[key] == wanted} for wanted in ('train', 'val')}
    assert not people['train'] & people['val']
    assert len(people['val']) == min(max(1, round(share * 10)), 9)


def test_split_depends_on_the_seed_and_more_photographs_move_few() -> None:
    keys = [f'{n}.jpg' for n in range(40)]
    first = split(keys)
    assert first == split(keys[::-1])
    assert first != split(keys, seed=2)
    more = split([*keys, *(f'{n}.jpg' for n in range(40, 44))])
    assert sum(first[key] != more[key] for key in keys) <= 2


def test_one_person_alone_cannot_be_split() -> None:
    with pytest.raises(UserError, match=r'only one person.*--split_by'):
        split(['a_1.jpg', 'a_2.jpg'], pattern='^(a)')
    with pytest.raises(UserError, match=r'only one photograph.*more'):
        split(['a.jpg'])


def test_number_of_a_face_depends_on_its_photograph_and_place_alone() -> None:
    numbers = {stable_number(key, index) for key in ('a.jpg', 'b.jpg', 'a\udcff.jpg') for index in (0, 1)}
    assert len(numbers) == 6
    assert all(0 <= number < 1 << 63 for number in numbers)
    assert stable_number('a.jpg', 0) == 4525606503401211409


def test_real_faces_are_split_by_person() -> None:
    folder = SHARED / 'data' / 'faces256'
    if not folder.is_dir():
        pytest.skip(f'{folder} is not there')
    keys = [photo.key for photo in list_photos(folder)[0]]
    people = group_photos(keys, GROUPS)
    found = split(keys, 0.15, GROUPS)
    assert len(set(people.values())) == 120
    assert len(found) == 200
    assert len({people[key] for key in keys if found[key] == 'val'}) == 18
    assert all(len({found[key] for key in keys if people[key] == person}) == 1 for person in set(people.values()))
