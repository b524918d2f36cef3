"""``gpen``: one command for all that a user does, and recipes that travel with the package."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import ROOT
from gpen import __version__
from gpen.commands import init, main
from gpen.commands.main import MODES
from gpen.options.recipes import find_recipe, list_recipes, name_recipe
from gpen.options.yaml_reader import find_option_file, read_yaml
from gpen.utils import command_line
from gpen.utils.command_line import SCRIPTS, spell_command


def gpen(*words: str) -> int:
    """Run the command in this process; return its exit status."""
    try:
        return main.main(words)
    except SystemExit as end:
        return int(end.code or 0)


@pytest.fixture(autouse=True)
def typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, 'argv', ['/usr/local/bin/gpen'])


# --- modes


@pytest.mark.parametrize('mode', MODES)
def test_a_mode_is_named_in_its_usage_as_it_was_typed(mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpen(mode, '--help') == 0
    assert capsys.readouterr().out.startswith(f'usage: gpen {mode} ')


def test_a_script_of_a_checkout_and_its_mode_are_the_same_command() -> None:
    assert {'init', *SCRIPTS} == set(MODES)
    for script in map(Path, SCRIPTS.values()):
        assert f'from gpen.commands.{script.stem} import main\n' in (ROOT / script).read_text(encoding='utf-8')


def test_help_lists_all_modes_at_once_without_importing_anything_heavy() -> None:
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, '-X', 'importtime', '-m', 'gpen', '--help'], capture_output=True, text=True, check=True
    )
    assert time.perf_counter() - start < 1
    assert done.stdout.startswith('usage: python -m gpen MODE')
    assert [mode for mode in MODES if f'\n  {mode} ' not in done.stdout] == []
    imported = {line.rpartition('|')[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {'torch', 'numpy', 'cv2', 'pydantic', 'yaml'}


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        (['trian'], "there is no mode 'trian'. Did you mean 'train'?"),
        (['search_lt', '-opt', 'x.yml'], "Did you mean 'search-lr'?"),
        (['search_lr'], 'usage: gpen search-lr'),  # hyphens and underscores are the same, as in options
        (['--modes'], 'unrecognized arguments: --modes'),
        ([], '  train        train from an option file'),
    ],
)
def test_a_mistyped_mode_ends_with_status_2(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpen(*words) == 2
    assert said in capsys.readouterr().err


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpen('--version') == 0
    assert capsys.readouterr().out == f'gpen {__version__}\n'


# --- commands to paste


@pytest.mark.parametrize(
    ('typed', 'on_path', 'shown'),
    [
        ('/usr/bin/gpen train', True, "gpen restore --input 'my photographs' --output out/faces"),
        ('/usr/bin/gpen-train', False, 'python -m gpen restore '),
        ('codes/train.py', True, 'python codes/restore.py '),
    ],
)
def test_the_next_command_is_written_as_the_last_one_was_typed(
    typed: str, on_path: bool, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {'python': sys.executable, 'gpen': '/usr/bin/gpen' if on_path else None}
    monkeypatch.setattr(command_line.shutil, 'which', found.get)
    monkeypatch.setattr(sys, 'argv', [typed])
    monkeypatch.chdir(ROOT)
    assert spell_command('restore', '--input', 'my photographs', '--output', ROOT / 'out' / 'faces').startswith(shown)


# --- recipes


@pytest.mark.parametrize('name', ['finetune_256', 'quickstart', 'test/gpen_512'])
def test_init_writes_a_recipe_that_says_the_same_here(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert gpen('init', name) == 0
    source = find_recipe(name)
    assert source is not None
    target = Path(f'{source.stem}_test.yml' if name.startswith('test/') else source.name)
    assert read_yaml(target).data == read_yaml(source).data
    text = target.read_text(encoding='utf-8')
    assert text.count('#') == source.read_text(encoding='utf-8').count('#'), 'a comment is missing'
    assert not [word for word in ('python codes', 'python scripts', f'options/train/{target}') if word in text]
    printed = capsys.readouterr().out
    assert all(path.name in printed for path in tmp_path.iterdir())


def test_init_adapts_the_commands_in_comments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command_line.shutil, 'which', str)
    assert gpen('init', 'gpen_512_faces') == 0
    text = Path('gpen_512_faces.yml').read_text(encoding='utf-8')
    assert 'training will see: gpen preview -opt gpen_512_faces.yml\n_base_: gpen_512.yml' in text
    assert f'$schema={ROOT}/options/schema.json\n' in text


def test_init_never_overwrites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert gpen('init', 'finetune') == 0
    assert gpen('init', 'gpen_512_faces') == 2
    assert 'gpen_512_faces.yml is there already, and is left as it is.' in capsys.readouterr().err

    # A base that is as it was is shared; one that was edited would change what is inherited.
    Path('gpen_512_faces.yml').unlink()
    assert gpen('init', 'gpen_512_faces') == 0
    Path('gpen_512_faces.yml').unlink()
    Path('gpen_512.yml').write_text('name: mine\n')
    assert gpen('init', 'gpen_512_faces') == 2
    assert 'would inherit from gpen_512.yml, which is there already' in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ['finetune.yml', 'gpen_512.yml']
    assert Path('gpen_512.yml').read_text() == 'name: mine\n'


def test_init_lists_every_recipe_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpen('init') == 0
    *lines, _, hint = capsys.readouterr().out.splitlines()
    assert hint == 'gpen init NAME writes one of them into this folder, to be edited.'
    assert [line.split()[0] for line in lines] == [name_recipe(path) for path in list_recipes()]
    assert all(len(line.split()) > 2 and len(line) <= init._WIDTH for line in lines)
    assert gpen('init', 'gpn_512') == 2
    assert "There is no recipe gpn_512. Did you mean 'gpen_512'?" in capsys.readouterr().err


@pytest.mark.parametrize('name', ['../train/gpen_512', 'options/../options/train/gpen_512.yml', 'options', '', '/'])
def test_a_name_that_leads_out_of_the_recipes_is_none(name: str) -> None:
    assert find_recipe(name) is None


def test_an_installed_package_has_its_recipes(tmp_path: Path) -> None:
    pytest.importorskip('setuptools')
    build = ['setup.py', '-q', 'build', '--build-base', tmp_path, '--build-lib', tmp_path / 'lib']
    subprocess.run([sys.executable, *build, 'egg_info', '--egg-base', tmp_path], check=True, cwd=ROOT, stderr=-3)
    installed = {path.name for path in (tmp_path / 'lib' / 'gpen' / 'recipes').rglob('*.*')}
    assert installed == {path.name for path in (ROOT / 'options').rglob('*.*')} - {'README.md'}

    work = tmp_path / 'work'
    work.mkdir()
    code = (
        f'import sys; sys.path.insert(0, {str(tmp_path / "lib")!r})\n'
        'from gpen.commands.init import main\nfrom gpen.options.yaml_reader import find_option_file, read_yaml\n'
        'main(["gpen_256_faces"])\n'
        'print(find_option_file("options/train/gpen_512_faces.yml"))\n'
        'print(read_yaml(find_option_file("gpen_512_faces")).data["network_g"]["size"])\n'
    )
    done = subprocess.run([sys.executable, '-I', '-c', code], capture_output=True, text=True, check=True, cwd=work)
    assert sorted(path.name for path in work.iterdir()) == ['gpen_256.yml', 'gpen_256_faces.yml']
    place = tmp_path / 'lib' / 'gpen' / 'recipes' / 'train' / 'gpen_512_faces.yml'
    assert done.stdout.splitlines()[-2:] == [str(place), '512']


def test_a_recipe_is_found_by_its_name_where_no_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_option_file('gpen_512') == ROOT / 'options' / 'train' / 'gpen_512.yml'
    Path('gpen_512').write_text('name: mine\n')
    assert find_option_file('gpen_512') == Path('gpen_512')
