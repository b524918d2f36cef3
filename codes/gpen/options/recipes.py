"""The recipes that travel with the package."""

from pathlib import Path

from gpen.utils.files import is_file, project_root

_PHASES = ('train', 'test')


def recipes_folder() -> Path:
    """Return the folder that holds ``train`` and ``test``: ``options`` of a checkout, else that of the package."""
    package = Path(__file__).resolve().parents[1]
    return project_root() / 'options' if package == project_root() / 'codes' / 'gpen' else package / 'recipes'


def list_recipes() -> list[Path]:
    """Return the recipes: those for training first."""
    return [path for phase in _PHASES for path in sorted((recipes_folder() / phase).glob('*.yml'))]


def name_recipe(path: Path) -> str:
    """Return what :func:`find_recipe` knows a recipe by: ``gpen_512``; ``test/gpen_512`` where it is for scoring."""
    return path.stem if path.parent.name == 'train' else f'{path.parent.name}/{path.stem}'


def find_recipe(name: str | Path) -> Path | None:
    """Return a recipe by its name (``gpen_512``, ``test/gpen_512``) or its place (``options/train/gpen_512.yml``)."""
    given = Path(name)
    folder, is_place = recipes_folder(), given.parts[:1] == ('options',)
    candidates = [Path(*given.parts[1:])] if is_place else [Path(f'{given}.yml'), Path('train', f'{given}.yml')]
    found = [folder / path for path in candidates if len(path.parts) > 1 and '..' not in path.parts]
    return next((path for path in found if is_file(path)), None)
