"""Checks across options: combinations that cannot work."""

from collections.abc import Iterator, Sequence
from typing import Any

from gpen.options.blocks import Dataset
from gpen.options.components import PRIOR, find_definition, parameter_names
from gpen.options.io_backend import check_dataroots, check_io_backend
from gpen.options.problems import Problem
from gpen.options.schema import Options, ScoringOptions
from gpen.options.yaml_reader import RUN_NAMES
from gpen.options.yaml_values import Key
from gpen.registry import MODEL_REGISTRY
from gpen.registry.published import explain_missing, find_meant_model
from gpen.utils.files import is_file, resolve_path
from gpen.utils.text import list_names, suggest

TRAIN: tuple[str, ...] = ('train',)
INPUT_NAME = 'input'  # names the blurry input where models are named
PRIOR_MODEL = 'GPENPriorModel'
SHARP_ALONE = 'FaceImageDataset'
BLURRY_ALONE = 'SingleImageDataset'
PAIR_METRICS = {
    'calculate_psnr',
    'calculate_ssim',
    'calculate_sharpness',
    'calculate_lpips',
    'calculate_identity',
    'calculate_deg',
    'calculate_lmd',
}


def unify_run_options(options: Options) -> list[Problem]:
    """Take ``num_gpu`` and ``manual_seed`` from ``train`` where they stand there; both places must agree."""
    problems = []
    for name in RUN_NAMES:
        above, inside = getattr(options, name), getattr(options.train, name)
        if above is not None and inside is not None and above != inside:
            problems.append(Problem(('train', name), f'is {inside} here and {above} at the top level. Give it once.'))
        setattr(options, name, inside if above is None else above)
    return problems


SIZES = ('size', 'in_size')


def fill_dataset_arguments(options: Options | ScoringOptions) -> list[Problem]:
    """Give data sets the sizes of the generator, where it has one, and the run's seed, where they take them."""
    problems = []
    generator: dict[str, Any] = {}
    if options.network_g is not None:
        definition = find_definition(options.network_g)
        generator = {**(definition.defaults if definition is not None else {}), **options.network_g.arguments}

    from_network = {'size': generator.get('size'), 'in_size': generator.get('in_size') or generator.get('size')}
    for phase, dataset in options.dataset_blocks.items():
        if dataset.model_extra is None:
            continue
        names = parameter_names(dataset)
        for name, value in from_network.items():
            if name not in names or value is None:
                continue
            given = dataset.model_extra.get(name)
            if given is None:
                dataset.model_extra[name] = value
            elif given != value:
                message = (
                    f'is {given}, but the generator works at {value}. Remove this line, or change network_g.{name}.'
                )
                problems.append(Problem(('datasets', phase, name), message))
        if 'manual_seed' in names:
            seed = dataset.model_extra.get('manual_seed')
            dataset.model_extra['manual_seed'] = options.seed if seed is None else seed
    return problems


def find_errors(
    options: Options, training: bool = True, phases: Sequence[str] = ('train', 'val'), check_weights: bool = True
) -> Iterator[Problem]:
    """Yield combinations of options that cannot work.

    Args:
        options: what to check.
        training: ask for what a training run needs.
        phases: the data sets whose folders must be there.
        check_weights: for training, the files under ``path`` must be there, too.
    """
    # What training alone needs.
    if training:
        for check in (_check_length, _check_losses, _check_model, _check_early_stopping, _check_accumulation):
            yield from check(options)
        if options.logger.uses_wandb and not options.logger.use_tb_logger:
            yield Problem(('logger', 'wandb'), 'needs use_tb_logger: true, since wandb reads the TensorBoard files')
        if options.datasets.train is None:
            yield Problem(('datasets', 'train'), 'is missing: training needs a data set')

    # Networks, and the files that are read.
    yield from _check_networks(options)
    if not training or (options.model_type != PRIOR_MODEL and options.model_type in MODEL_REGISTRY.definitions):
        yield from _check_pairs(options, phases)
    yield from _check_sharp(options, phases)
    yield from _check_folders(options, phases)
    if training and check_weights:
        yield from _check_files(options)


def _check_length(options: Options) -> Iterator[Problem]:
    train = options.train
    if (train.total_epochs is None) == (train.total_iter is None):
        yield Problem(TRAIN, 'give one of total_epochs and total_iter')
    if train.warmup_epochs and train.warmup_iter > 0:
        yield Problem(('train', 'warmup_iter'), 'give one of warmup_epochs and warmup_iter')
    if train.ema_halflife_images is not None and 'ema_decay' in train.model_fields_set and train.ema_decay is not None:
        yield Problem(('train', 'ema_halflife_images'), 'give one of ema_decay and ema_halflife_images')
    if train.ema_scheduler.total_iter and train.ema_scheduler.share is not None:
        yield Problem(('train', 'ema_scheduler', 'share'), 'give one of total_iter and share')
    if train.use_grad_norm and train.grad_norm_clip is None:
        yield Problem(('train', 'use_grad_norm'), 'needs train.grad_norm_clip, the largest gradient norm, such as 1.0')


def _check_losses(options: Options) -> Iterator[Problem]:
    train = options.train
    adversarial = train.gan_opt is not None and train.gan_opt.is_on
    matching = train.feature_matching_opt is not None and train.feature_matching_opt.is_on
    if not adversarial and not options.generator_losses:
        yield Problem(TRAIN, 'no loss is switched on; give pixel_opt, such as {type: L1Loss, loss_weight: 1}')
    if adversarial and options.network_d is None:
        yield Problem(('train', 'gan_opt'), 'needs a discriminator: give network_d, or remove gan_opt')
    augment = train.augment_opt
    if augment is not None and not adversarial:
        yield Problem(('train', 'augment_opt'), 'needs gan_opt, whose discriminator sees the augmented images')
    if augment is not None and augment.ada_target is not None and 'probability' in augment.model_fields_set:
        yield Problem(('train', 'augment_opt', 'probability'), 'give one of probability and ada_target')
    if augment is not None and augment.ada_target is None and 'ada_images' in augment.model_fields_set:
        yield Problem(('train', 'augment_opt', 'ada_images'), 'needs ada_target; a fixed probability does not adapt')
    if matching and not adversarial:
        yield Problem(('train', 'feature_matching_opt'), 'needs gan_opt, which trains the discriminator')
    if has_components(options):
        yield from _check_components(options, adversarial)

    # Feature matching asks the discriminator for its features.
    discriminator = find_definition(options.network_d) if options.network_d is not None else None
    inputs = discriminator.inputs if discriminator is not None else ()
    if matching and inputs is not None and 'return_features' not in inputs:
        message = 'needs a discriminator whose forward takes return_features, such as GPENDiscriminator'
        yield Problem(('train', 'feature_matching_opt'), message)

    for name in train.losses:
        if name in {'pixel', 'perceptual', 'identity', 'adv', 'feature_matching'} or name.startswith('component_'):
            yield Problem(
                ('train', 'losses', name), f'has the name of a built-in loss; use train.{name}_opt or rename it'
            )


def has_components(options: Options) -> bool:
    """Tell whether discriminators of facial components are trained."""
    return options.train.component_opt is not None and options.train.component_opt.is_on


def _check_components(options: Options, adversarial: bool) -> Iterator[Problem]:
    if not adversarial:
        yield Problem(('train', 'component_opt'), 'needs gan_opt, whose discriminator judges the whole face')
    data = options.datasets.train
    if data is not None and data.arguments.get('landmarks') is None:
        message = 'needs datasets.train.landmarks: manifest.csv of prepare_dataset.py, or a table of find_landmarks.py'
        yield Problem(('train', 'component_opt'), message)


def _check_model(options: Options) -> Iterator[Problem]:
    """Yield what a prior, which makes faces out of noise, cannot be trained with, and networks of the other stage."""
    generator = find_definition(options.network_g)
    role = generator.role if generator is not None else None  # one that declares none is taken anywhere
    if options.model_type != PRIOR_MODEL:
        if role == PRIOR and options.model_type in MODEL_REGISTRY.definitions:
            message = f'{options.network_g.type} makes faces out of noise; train it with model_type: {PRIOR_MODEL}'
            yield Problem(('network_g', 'type'), message)
        if options.train.path_reg_weight and generator is not None and 'return_latents' not in (generator.inputs or ()):
            message = 'needs a generator whose forward takes return_latents, such as GPEN'
            yield Problem(('train', 'path_reg_weight'), message)
        return

    # The prior's stage: noise in, a discriminator to learn from.
    if role not in (PRIOR, None):
        yield Problem(('network_g', 'type'), f'{PRIOR_MODEL} trains a network that starts from noise: GPENPrior')
    train = options.train
    if train.gan_opt is None or not train.gan_opt.is_on:
        yield Problem(
            ('train', 'gan_opt'), f'{PRIOR_MODEL} learns from the discriminator alone: give {{type: GANLoss}}'
        )

    # It restores nothing, so there is no pair of images to compare.
    no_pairs = f'compares a restored face with its sharp one, but {PRIOR_MODEL} restores none.'
    compared = [
        f'{name}_opt' if hasattr(train, f'{name}_opt') else f'losses.{name}' for name in options.generator_losses
    ]
    if train.feature_matching_opt is not None and train.feature_matching_opt.is_on:
        compared.append('feature_matching_opt')
    if has_components(options):
        compared.append('component_opt')
    for name in compared:
        yield Problem(('train', *name.split('.', 1)), f'{no_pairs} Remove it.')
    for name, metric in options.val.metrics.items() if options.datasets.val is not None else ():
        if metric.type in PAIR_METRICS:
            message = f'{no_pairs} Use calculate_fid, or metrics: {{}} for pictures alone.'
            yield Problem(('val', 'metrics', name), message)


def _check_accumulation(options: Options) -> Iterator[Problem]:
    train = options.datasets.train
    if train is not None and options.micro_batches > train.batch_size_per_gpu:
        message = f'is {train.accumulate}, but a batch has {train.batch_size_per_gpu} images to share out. Lower it.'
        yield Problem(('datasets', 'train', 'accumulate'), message)


def _check_early_stopping(options: Options) -> Iterator[Problem]:
    early, metrics = options.train.early_stopping, options.val.metrics
    # Without metrics, validation shows pictures alone: there is nothing to follow.
    if metrics and options.datasets.val is not None and early.enabled and early.metric not in metrics:
        hint = suggest(early.metric, metrics) or f' It has: {", ".join(metrics)}.'
        yield Problem(('train', 'early_stopping', 'metric'), f'{early.metric!r} is not in val.metrics.{hint}')


def _check_networks(options: Options) -> Iterator[Problem]:
    generator = options.network_g.arguments
    size, in_size = generator.get('size'), generator.get('in_size')
    if size is None and options.datasets.train is not None:  # a network for images of any size
        size = options.datasets.train.arguments.get('size')
    if isinstance(size, int) and isinstance(in_size, int) and in_size > size:
        yield Problem(('network_g', 'in_size'), f'is {in_size}, larger than size {size}. Make it {size} or smaller.')
    if options.network_d is not None and 'size' in parameter_names(options.network_d):
        other = options.network_d.arguments.get('size')
        if isinstance(size, int) and isinstance(other, int) and other != size:
            message = f'is {other}, but the generator makes {size} x {size} images. Make them equal.'
            yield Problem(('network_d', 'size'), message)


def _check_pairs(options: Options | ScoringOptions, phases: Sequence[str]) -> Iterator[Problem]:
    for phase, dataset in options.dataset_blocks.items():
        if phase in phases and dataset.type == SHARP_ALONE:
            message = f'{SHARP_ALONE} has nothing to restore: it is for {PRIOR_MODEL}. Use DegradedFaceDataset, which '
            yield Problem(('datasets', phase, 'type'), message + 'degrades sharp faces, or PairedImageDataset.')


def _check_sharp(options: Options, phases: Sequence[str]) -> Iterator[Problem]:
    for phase, dataset in options.dataset_blocks.items():
        if phase in phases and dataset.type == BLURRY_ALONE:
            message = f'{BLURRY_ALONE} has no sharp images, with which training and its validation compare. Score on '
            yield Problem(('datasets', phase, 'type'), message + 'it by a file such as options/test/real_faces.yml.')


def _check_references(options: ScoringOptions) -> Iterator[Problem]:
    """Yield metrics that compare with sharp images where a set has none."""
    alone = [f'datasets.{name}' for name, dataset in options.datasets.items() if dataset.type == BLURRY_ALONE]
    for name, metric in options.val.metrics.items() if alone else ():
        message = f'compares with sharp images, and {list_names(alone)} has none ({BLURRY_ALONE}).'
        if metric.type in PAIR_METRICS:
            yield Problem(('val', 'metrics', name), f'{message} Remove the metric, or score such sets by another file.')
        elif metric.type == 'calculate_fid' and metric.arguments.get('reference') is None:
            advice = 'Give reference: a folder of sharp faces such as FFHQ, or statistics of one'
            yield Problem(('val', 'metrics', name), f'{message} {advice}.')


def _check_folders(options: Options | ScoringOptions, phases: Sequence[str]) -> Iterator[Problem]:
    for phase, dataset in options.dataset_blocks.items():
        if phase not in phases:
            continue
        key = ('datasets', phase)
        io_backend = dataset.arguments.get('io_backend')
        if isinstance(io_backend, dict) and 'io_backend' in parameter_names(dataset):
            yield from check_io_backend(io_backend, (*key, 'io_backend'))
        yield from check_dataroots(dataset.arguments, key)
        yield from _check_landmarks(dataset, key, is_trained_on=isinstance(options, Options) and phase == 'train')


def _check_landmarks(dataset: Dataset, key: tuple[str, ...], is_trained_on: bool) -> Iterator[Problem]:
    file = dataset.arguments.get('landmarks')
    if not isinstance(file, str) or 'landmarks' not in parameter_names(dataset):
        return
    if not is_trained_on:
        yield Problem(
            (*key, 'landmarks'), 'has no effect: only training, with train.component_opt, uses it. Remove it.'
        )
    elif not is_file(resolve_path(file)):
        message = f'there is no file {resolve_path(file)}. Put it there, or change this line.'
        yield Problem((*key, 'landmarks'), message)


def _check_files(options: Options) -> Iterator[Problem]:
    paths = options.path
    if paths.pretrain_prior is not None and paths.pretrain_network_g is not None:
        message = 'is given beside pretrain_network_g, whose decoder it would replace. Give one of them.'
        yield Problem(('path', 'pretrain_prior'), message)
    for name in ('pretrain_network_g', 'pretrain_network_d', 'pretrain_prior', 'resume_state'):
        if getattr(paths, name) is not None:
            yield from _check_weights(('path', name), getattr(paths, name), is_state=name == 'resume_state')
    yield from _check_published_sizes(options)


def _check_published_sizes(options: Options) -> Iterator[Problem]:
    """Yield published models that cannot fit their network, whose download would be in vain."""
    paths = options.path
    for name, network, strict in (
        ('pretrain_network_g', options.network_g, paths.strict_load_g),
        ('pretrain_prior', options.network_g, True),
        ('pretrain_network_d', options.network_d, paths.strict_load_d),
    ):
        given = getattr(paths, name)
        model = None if given is None else find_meant_model(given, resolve_path(given))
        size = None if network is None else network.arguments.get('size')
        if strict and model is not None and isinstance(size, int) and size != model.pixels:
            block = 'network_d' if network is options.network_d else 'network_g'
            message = (
                f'{model.name} is a network of {model.pixels} pixels, and {block}.size is {size}. Choose another model '
                'or size.'
            )
            yield Problem(('path', name), message)


def _check_weights(key: Key, given: str, is_state: bool = False) -> Iterator[Problem]:
    """Yield what is wrong with a file, the name of a published model or an address; nothing is downloaded."""
    path, advice = resolve_path(given), 'Put it there, or change this line.'
    if not is_state:
        problem = explain_missing(given, path, advice, discriminator=key[-1] == 'pretrain_network_d')
    else:
        problem = None if is_file(path) else f'there is no file {path}. {advice}'
    if problem is not None:
        yield Problem(key, problem)


def find_scoring_errors(options: ScoringOptions, check_models: bool) -> Iterator[Problem]:
    """Yield what a scoring run cannot work with.

    Args:
        options: what to check.
        check_models: the files under ``models`` are the ones to score.
    """
    # Models
    if check_models and not options.models:
        yield Problem(('models',), 'names no file of weights: write NAME: FILE, or give --model FILE')
    for name, file in options.models.items():
        if name == INPUT_NAME:
            yield Problem(('models', name), f'{INPUT_NAME!r} is what tables call the blurry input; choose another name')
        if check_models:
            yield from _check_weights(('models', name), file)

    # What they are scored on, and by what.
    if not options.datasets:
        yield Problem(('datasets',), 'names no set to score on: write NAME: {type: PairedImageDataset, ...}')
    if not options.val.metrics:
        yield Problem(('val', 'metrics'), 'names no metric: write NAME: {type: calculate_psnr}, or leave the block out')
    for name, dataset in options.datasets.items():
        size, does = ('in_size', 'takes') if dataset.type == BLURRY_ALONE else ('size', 'makes')
        takes_size = size in parameter_names(dataset)
        if options.network_g is not None and takes_size and dataset.arguments.get(size) is None:
            message = f'needs {size}, the height and width of the images that {options.network_g.type} {does}'
            yield Problem(('datasets', name), message)
    yield from _check_pairs(options, list(options.datasets))
    yield from _check_references(options)
    yield from _check_folders(options, list(options.datasets))
