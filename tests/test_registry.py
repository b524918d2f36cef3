"""Names are found in the source, with their arguments, without importing it."""

import sys
from pathlib import Path

import pytest

from gpen.errors import UserError
from gpen.options.components import signature_model
from gpen.registry import ARCH_REGISTRY, LOSS_REGISTRY, Registry

FILES = {
    '__init__.py': '',
    'base.py': """
from gpen.options.types import PositiveInt
from gpen.registry import Registry

THINGS = Registry('thing', 'own_things', 'THINGS')
OTHERS = Registry('other', 'own_things', 'OTHERS')

@THINGS.register
class Base:
    def __init__(self, size: PositiveInt, scale: float = 1.0) -> None:
        self.size, self.scale = size, scale
""",
    'renamed.py': """
import own_things.base as b
from own_things import base
from own_things.base import THINGS as MINE

@MINE.register(role='first')
class Aliased:
    def __init__(self, size: int) -> None: ...

@b.THINGS.register()
class OfModule:
    role = 'second'

@base.THINGS.register
def of_package(): ...

@b.OTHERS.register
def of_others(): ...
""",
    'derived.py': """
from typing import Optional
from somewhere_missing import Elsewhere
from own_things.base import THINGS, Base

@THINGS.register
class Derived(Base):
    pass

@THINGS.register()
class Foreign(Elsewhere):
    pass

@THINGS.register
def function(weight: Optional[float] = None, custom: Elsewhere = None): ...
""",
}


@pytest.fixture
def things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    package = tmp_path / 'own_things'
    package.mkdir()
    for name, text in FILES.items():
        (package / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return Registry('thing', 'own_things', 'THINGS')


def test_a_constructor_inherited_from_another_file_is_checked(things: Registry) -> None:
    definition = things.definitions['Derived']
    assert [parameter.name for parameter in definition.parameters] == ['size', 'scale']
    assert not definition.open_ended
    assert 'own_things.base' not in sys.modules


def test_a_constructor_that_cannot_be_found_takes_anything(things: Registry) -> None:
    taken = signature_model(things.definitions['Foreign']).model_validate({'anything': 1})
    assert taken.model_extra == {'anything': 1}


def test_a_registry_may_be_imported_under_another_name(things: Registry) -> None:
    assert {'Aliased', 'OfModule', 'of_package'} <= set(things.definitions)
    assert 'of_others' not in things.definitions
    assert (things.definitions['Aliased'].role, things.definitions['OfModule'].role) == ('first', 'second')


def test_annotations_from_elsewhere_allow_any_value_and_optional_is_known(things: Registry) -> None:
    model = signature_model(things.definitions['function'])
    model.model_validate({'weight': None, 'custom': object()})
    with pytest.raises(ValueError, match='weight'):
        model.model_validate({'weight': 'heavy'})


def test_only_the_chosen_module_is_imported(things: Registry) -> None:
    assert things.get('Base')(size=3).size == 3
    assert 'own_things.derived' not in sys.modules
    assert things.get('Aliased').role == 'first'


def test_an_unknown_name_lists_what_exists_and_the_nearest(things: Registry) -> None:
    with pytest.raises(
        UserError, match=r"no thing named 'Derivd'. Did you mean 'Derived'\? Available: Aliased, Base, Derived"
    ):
        things.get('Derivd')


def test_our_networks_and_losses_are_found() -> None:
    assert {'GPEN', 'GPENDiscriminator'} <= set(ARCH_REGISTRY.definitions)
    assert LOSS_REGISTRY.definitions['GANLoss'].role == 'adversarial'
    assert LOSS_REGISTRY.definitions['L1Loss'].inputs == ('restored', 'gt')
