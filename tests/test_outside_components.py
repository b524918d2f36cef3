"""Components from outside the package are named by their dotted paths, and nothing else has to be done."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from command_line import fail, succeed
from conftest import ROOT, write_options
from gpen.commands import restore
from gpen.errors import UserError
from gpen.options import parse_options
from gpen.registry import ARCH_REGISTRY, LOSS_REGISTRY
from outside_project import outside_options, run_from, write_project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the user's project."""
    write_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope='module')
def trained(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working directory of a training with components of all kinds; its option file is run.yml."""
    folder = tmp_path_factory.mktemp('elsewhere')
    write_project(folder)
    options = outside_options(tiny_data, folder)
    result = run_from(folder, 'codes/train.py', '-opt', write_options(folder / 'run.yml', options))
    assert result.returncode == 0, result.stderr
    return folder


def test_a_training_with_components_of_all_kinds_uses_each(trained: Path) -> None:
    run = trained / 'experiments' / 'tiny'
    records = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
    steps = [record for record in records if record['phase'] == 'train']
    assert steps[0]['loud'] == 42
    assert steps[0]['G_loss_edges'] > 0
    assert {'D_loss_real', 'D_acc_fake'} <= set(steps[0])
    assert steps[-1]['lr_g'] == pytest.approx(0.005)
    assert any('contours' in str(record) for record in records)
    weights = torch.load(run / 'models' / 'net_g_latest.pth', weights_only=True)
    assert weights['params_ema']['layers.0.weight'].shape == (4, 3, 3, 3)


def test_the_run_records_the_dotted_names(trained: Path) -> None:
    written = yaml.safe_load((trained / 'experiments' / 'tiny' / 'options.yml').read_text())
    assert written['network_g']['type'] == 'my_project.nets.PlainNet'
    assert written['model_type'] == 'my_project.training.LoudModel'
    run = json.loads((trained / 'experiments' / 'tiny' / 'run.json').read_text())
    assert run['metrics']['contours']['higher_is_better'] is False


def test_it_continues_and_is_scored(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    option_file = trained / 'run.yml'
    succeed(option_file, 'train:total_epochs=3', flags=('--auto_resume',))
    assert (trained / 'experiments' / 'tiny' / 'training_states' / '12.state').is_file()
    assert 'CONTOURS' in succeed(option_file, command='test').upper()


def test_restoring_with_another_network_than_gpen_is_refused_in_a_sentence(
    trained: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = trained / 'experiments' / 'tiny' / 'models' / 'net_g_latest.pth'
    folders = ['--input', str(tiny_data / 'val' / 'blurry'), '--output', str(tmp_path / 'out')]
    assert restore.main(['--model', str(weights), *folders, '--aligned']) == 2
    printed = capsys.readouterr().err
    assert 'not the weights of a GPEN generator' in printed
    assert 'Traceback' not in printed


def test_a_worker_that_is_started_afresh_finds_the_working_directory(project: Path, tiny_data: Path) -> None:
    (project / 'main.py').write_text(
        'import sys\n'
        "if __name__ == '__main__':\n"
        f'    sys.path[0] = {str(ROOT / "codes")!r}  # instead of the folder of this file\n'
        '    from gpen.data.loader import build_dataset, build_train_loader\n'
        f'    folder = {str(tiny_data / "train" / "sharp")!r}\n'
        "    block = {'type': 'my_project.faces.NoisyFaces', 'folder': folder, 'size': 16}\n"
        "    loader = build_train_loader(build_dataset(block), 2, 1, 0, end_iteration=2, start_method='spawn')\n"
        "    print(sum(len(batch['name']) for batch in loader))\n"
    )
    command = [sys.executable, 'main.py']
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=project)
    assert (result.returncode, result.stdout.strip()) == (0, '4'), result.stderr


MISTAKES = [
    (
        'network_g={type: my_project.nets.Odd}',
        "declares the role 'judge'; it can be generator, prior, discriminator, adversarial, feature_matching",
    ),
    ('network_g={type: my_project.losses.Hinge}', 'is an adversarial loss; it belongs to train.gan_opt'),
    (
        'network_g={type: my_project.nets.PlainNt}',
        "network_g.type: There is no network 'my_project.nets.PlainNt': ",
    ),
    ('network_g={type: my_project.nets.PlainNt}', "Did you mean 'my_project.nets.PlainNet'?"),
    (
        'network_g={type: my_project.nts.PlainNet}',
        "have no module 'my_project.nts'. Did you mean 'my_project.nets.PlainNet'?",
    ),
    ('network_g={type: my_projet.nets.PlainNet}', "have no module 'my_projet.nets'."),
    (
        'network_g={type: my_project.nets.PlainNet, chanels: 4}',
        "network_g.chanels: there is no such option. Did you mean 'channels'?",
    ),
    (
        'network_g={type: my_project.nets.PlainNet, channels: 0}',
        'network_g.channels: should be greater than 0, not 0',
    ),
    (
        'network_g={type: my_project.nets.PlainNet, slope: steep}',
        "network_g.slope: should be a number, not 'steep'",
    ),
    ('train:pixel_opt={type: my_project.training.Halving}', 'train.pixel_opt.every: is missing'),
    (
        'train:losses:edges={type: my_project.losses.EdgeLoss, weight: 1}',
        'train.losses.edges.weight: there is no such option',
    ),
    ('datasets:train:size=~', 'datasets.train.size: should be a whole number, not null'),
    ('datasets:val={type: my_project.faces.NoisyFaces, folder: x}', 'datasets.val.size: is missing'),
    ('datasets:val:degradation=[{type: my_project.faces.scratches, count: 3}]', 'degradation.0.count: '),
    (
        'val:metrics:contours={type: my_project.training.calculate_edges, power: x}',
        'val.metrics.contours.power: should be a whole number',
    ),
    ('model_type=my_project.training.LoudModl', "model_type: There is no model 'my_project.training.LoudModl': "),
    (
        'train:optim_g={type: my_project.training.Sign, lr: 1, betas: 2}',
        'train.optim_g.betas: there is no such option',
    ),
    (
        'network_g={type: my_project.nets.Judge}',
        'network_g.type: my_project.nets.Judge is a discriminator; it belongs to network_d',
    ),
    (
        'network_d={type: my_project.nets.Maker, size: 16}',
        'my_project.nets.Maker is a generator; it belongs to network_g',
    ),
    ('train:gan_opt={type: my_project.losses.EdgeLoss}', 'my_project.losses.EdgeLoss is no adversarial loss'),
    ('train:pixel_opt={type: my_project.losses.Hinge}', 'my_project.losses.Hinge is an adversarial loss'),
]
"""A ``--force_yml`` setting, and part of what is said of it."""


@pytest.fixture(scope='module')
def explained(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The option file, and what is said of each mistake in it; then the heavy modules that were imported for that."""
    folder = tmp_path_factory.mktemp('mistakes')
    write_project(folder)
    options = outside_options(tiny_data, folder)
    options['train']['optim_d'] = {'type': 'Adam'}
    option_file = write_options(folder / 'run.yml', options)
    code = (
        f'import json, sys; sys.path.insert(0, {str(ROOT / "codes")!r})\n'
        'from gpen.options import parse_options; from gpen.errors import UserError\n'
        'said = {}\n'
        'for setting in sys.argv[2:]:\n'
        '    try: parse_options(sys.argv[1], [setting])\n'
        '    except UserError as error: said[setting] = str(error)\n'
        "said['imported'] = ' '.join({'torch', 'numpy', 'my_project'} & set(sys.modules))\n"
        'print(json.dumps(said))\n'
    )
    command = [sys.executable, '-I', '-c', code, str(option_file), *dict(MISTAKES)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    return option_file, json.loads(result.stdout)


@pytest.mark.parametrize(('setting', 'message'), MISTAKES)
def test_a_mistake_is_explained_with_its_place(
    explained: tuple[Path, dict[str, str]], setting: str, message: str
) -> None:
    option_file, said = explained
    assert message in said[setting]
    assert said[setting].splitlines()[0] == f'{option_file}: 1 error in the options'


def test_mistakes_are_found_without_importing_anything_heavy(explained: tuple[Path, dict[str, str]]) -> None:
    assert explained[1]['imported'] == ''


def test_names_that_a_module_imports_from_elsewhere_are_found_by_importing_it(project: Path) -> None:
    (project / 'my_project' / '__init__.py').write_text('from my_project.nets import PlainNet\nfrom math import sqrt\n')
    definition = ARCH_REGISTRY.find('my_project.PlainNet')
    assert definition is not None
    assert [(one.name, one.required, one.default) for one in definition.parameters] == [
        ('channels', False, 32),
        ('slope', False, 0.1),
    ]
    assert ARCH_REGISTRY.get('my_project.PlainNet')(channels=2)(torch.zeros(1, 3, 8, 8)).shape == (1, 3, 8, 8)
    assert LOSS_REGISTRY.find('my_project.sqrt') is not None


def test_a_constructor_that_another_file_has_is_found_by_importing_it(project: Path) -> None:
    (project / 'wide.py').write_text(
        'from my_project.nets import Judge, PlainNet\n\n'
        'class Wide(PlainNet):\n    pass\n\n'
        'class Strict(Judge):\n    pass\n'
    )
    definition = ARCH_REGISTRY.find('wide.Wide')
    assert definition is not None
    assert [one.name for one in definition.parameters] == ['channels', 'slope']
    strict = ARCH_REGISTRY.find('wide.Strict')
    assert strict is not None
    assert strict.role == 'discriminator'


def test_annotations_are_those_that_the_module_imports(project: Path) -> None:
    (project / 'odd.py').write_text(
        'import gpen.options.types as t\nfrom typing import Literal, Optional\nfrom somewhere import Range\n\n'
        'class PositiveInt: ...\n\n'
        'def odd(a: t.PositiveInt, b: "int", c: Literal["x", "y"], d: Optional[int], e: Range, f: PositiveInt,\n'
        '        g: tuple[int, int], h: "list[Own]", schema=1, _hidden=2): ...\n'
    )
    definition = LOSS_REGISTRY.find('odd.odd')
    assert definition is not None
    annotations = {one.name: one.annotation for one in definition.parameters}
    assert annotations['a'] == 'PositiveInt'
    assert (annotations['b'], annotations['c'], annotations['d']) == ('int', "Literal['x', 'y']", 'Optional[int]')
    assert [annotations[name] for name in 'ef'] == [None] * 2
    from gpen.options.components import signature_model

    given = {'a': 1, 'b': 2, 'c': 'x', 'd': None, 'e': 1, 'f': 1, 'g': [1, 2], 'h': 1, 'schema': 3, '_hidden': 4}
    signature_model(definition).model_validate(given)
    for name, wrong in (('a', 0), ('b', 'x'), ('c', 'z'), ('d', 'x')):
        with pytest.raises(ValueError, match=name):
            signature_model(definition).model_validate({**given, name: wrong})


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        ('import torch\n\nx = 1 / 0\n', 'nets.py:3: ZeroDivisionError: division by zero'),
        ('import no_such_library\n', "nets.py:1: ModuleNotFoundError: No module named 'no_such_library'"),
        ('def broken(:\n', 'nets.py:1: SyntaxError: '),
        ('import sys\nsys.exit(3)\n', 'nets.py:2: SystemExit: 3'),
        ('from my_project import helper\n', 'helper.py:2: KeyError: '),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_sentence(project: Path, text: str, reason: str) -> None:
    (project / 'my_project' / 'helper.py').write_text('import json\n{}["x"]\n')
    (project / 'my_project' / 'nets.py').write_text(f'{text}class PlainNet: ...\n')
    with pytest.raises(UserError) as caught:
        ARCH_REGISTRY.get('my_project.nets.PlainNet')
    expected = f"The module 'my_project.nets' cannot be imported: {project / 'my_project'}/{reason}"
    assert str(caught.value).startswith(expected)


def test_a_training_with_a_module_that_cannot_be_imported_ends_with_status_2(project: Path, tiny_data: Path) -> None:
    losses = project / 'my_project' / 'losses.py'
    losses.write_text(f'{losses.read_text()}\n\nnumber = int("one")\n')
    options = outside_options(tiny_data, project)
    printed = fail(write_options(project / 'run.yml', options))
    line = len(losses.read_text().splitlines())
    assert f"'my_project.losses' cannot be imported: {losses}:{line}: ValueError: invalid literal" in printed


def test_the_discriminator_has_the_size_of_the_data_where_the_generator_has_none(
    project: Path, tiny_data: Path
) -> None:
    options = outside_options(tiny_data, project)
    options['network_d'] = {'type': 'GPENDiscriminator', 'size': 32}
    path = write_options(project / 'run.yml', options)
    with pytest.raises(UserError, match=r'run.yml:\d+: network_d.size: is 32, but the generator makes 16 x 16 images'):
        parse_options(path)
    assert parse_options(path, ['network_d:size=16']).options.network_d is not None


def test_an_undeclared_network_is_taken_anywhere(project: Path, tiny_data: Path) -> None:
    options = outside_options(tiny_data, project)
    options['network_d'] = {'type': 'my_project.nets.PlainNet'}
    found = parse_options(write_options(project / 'run.yml', options)).options.network_d
    assert found is not None
    assert found.type == 'my_project.nets.PlainNet'
