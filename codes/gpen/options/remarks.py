"""Options that are legal but without effect, or hardly meant: each is a warning."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence

from gpen.options.checks import PRIOR_MODEL, has_components
from gpen.options.problems import Problem
from gpen.options.schema import Options, ScoringOptions
from gpen.registry import MODEL_REGISTRY
from gpen.utils.files import resolve_path
from gpen.utils.text import shorten

_WORDS = {'epoch': 'epochs', 'iter': 'iterations'}


def find_warnings(options: Options) -> Iterator[Problem]:
    """Yield what is legal but has no effect or is hardly meant."""
    train = options.train

    # Rates
    yield from _find_schedule_warnings(options, {'epoch': train.total_epochs, 'iter': train.total_iter})
    for name in ('optim_g', 'optim_d'):
        rate = getattr(train, name).lr
        if (train.warmup_epochs or train.warmup_iter > 0) and train.base_lr > rate:
            message = f'is {train.base_lr:g}, above train.{name}.lr {rate:g}: the warm-up goes down, not up'
            yield Problem(('train', 'base_lr'), message)
    yield from _warn_idle(options)

    yield from find_data_warnings(options)

    # What is left out, or known from BasicSR.
    if options.datasets.val is None:
        yield Problem(('datasets',), 'no val set: no validation, no best file, no early stopping')
    wanted, processes = options.num_gpu, int(os.environ.get('WORLD_SIZE', '1'))  # torchrun sets it
    if isinstance(wanted, int) and wanted > 1 and wanted != processes:
        how = f'torchrun --nproc_per_node {wanted} ... --launcher pytorch trains on {wanted} GPUs of a machine'
        yield Problem(('num_gpu',), f'is {wanted}, but there are {processes} processes, with a GPU each; {how}')
    if train.grad_compression is not None and processes == 1:
        yield Problem(('train', 'grad_compression'), 'has no effect with one process')
    if 'dist_params' in options.model_fields_set:
        yield Problem(('dist_params',), 'has no effect: torchrun says how processes find each other')
    if options.network_d is not None and (train.gan_opt is None or not train.gan_opt.is_on):
        yield Problem(('network_d',), 'is not trained, since train.gan_opt is off')
    data = options.datasets.train
    if data is not None and data.arguments.get('landmarks') is not None and not has_components(options):
        yield Problem(('datasets', 'train', 'landmarks'), 'has no effect without train.component_opt')
    if train.net_d_init_iters and train.total_iter and train.net_d_init_iters >= train.total_iter:
        yield Problem(('train', 'net_d_init_iters'), 'the generator never learns: training ends before')


def _warn_idle(options: Options) -> Iterator[Problem]:
    """Yield options that are given and have no effect beside the others, one warning for each reason."""
    train = options.train
    is_adversarial = train.gan_opt is not None and train.gan_opt.is_on
    is_prior = options.model_type == PRIOR_MODEL
    has_paths = bool(train.path_reg_weight) or (is_prior and train.path_reg_weight is None)
    restores = not is_prior and options.model_type in MODEL_REGISTRY.definitions

    measures = options.datasets.val is not None and bool(options.val.metrics)
    reasons = {
        'without metrics of validation': ('early_stopping',) if not measures and train.early_stopping.enabled else (),
        'while train.use_grad_norm is false': ('grad_norm_clip',) if not train.use_grad_norm else (),
        'without a warm-up': ('base_lr',) if not train.warmup_epochs and train.warmup_iter <= 0 else (),
        'without path_reg_weight': ('net_g_reg_every', 'path_batch_shrink') if not has_paths else (),
        'without r1_reg_weight': ('net_d_reg_every',) if is_adversarial and not train.r1_reg_weight else (),
        f'but in {PRIOR_MODEL}': ('mixing_prob',) if restores else (),
        'while train.gan_opt is off': (
            *('optim_d', 'freeze_d', 'r1_reg_weight', 'net_d_reg_every', 'net_d_iters', 'net_d_init_iters'),
        )
        if not is_adversarial
        else (),
    }
    for reason, names in reasons.items():
        given = [name for name in names if name in train.model_fields_set and getattr(train, name) is not None]
        if given:
            yield Problem(('train', given[0]), f'has no effect {reason}' + _also(given[1:]))


def _also(names: Sequence[str]) -> str:
    return f' (nor have {", ".join(names)})' if names else ''


def find_data_warnings(options: Options | ScoringOptions) -> Iterator[Problem]:
    """Yield data sets whose folders are given twice where two are meant."""
    roots = {
        (phase, name): os.path.realpath(resolve_path(value))
        for phase, dataset in options.dataset_blocks.items()
        for name in ('dataroot_gt', 'dataroot_lq')
        if isinstance(value := dataset.arguments.get(name), str)
    }
    for phase in options.dataset_blocks:
        if (phase, 'dataroot_lq') in roots and roots[phase, 'dataroot_lq'] == roots.get((phase, 'dataroot_gt')):
            yield Problem(('datasets', phase, 'dataroot_lq'), 'is the same as dataroot_gt: there is nothing to restore')
    gt = ('train', 'dataroot_gt'), ('val', 'dataroot_gt')
    if gt[0] in roots and roots[gt[0]] == roots.get(gt[1]):
        message = 'is that of datasets.train: validation sees the images that are trained on'
        yield Problem(('datasets', *gt[1]), message)


def schedule_unit(options: Options) -> str:
    """Return what milestones count: 'epoch' or 'iter'."""
    scheduler = options.train.scheduler
    if scheduler is not None and scheduler.unit is not None:
        return scheduler.unit
    return 'epoch' if options.train.total_epochs is not None else 'iter'


def find_late_warnings(options: Options, iterations_per_epoch: int) -> list[Problem]:
    """Return what is found in the schedule once the length of an epoch is known, and was not found before."""
    train = options.train
    total = train.total_iter or (train.total_epochs or 0) * iterations_per_epoch
    lengths = {'iter': total, 'epoch': math.ceil(total / iterations_per_epoch)}
    given = {'iter': train.total_iter, 'epoch': train.total_epochs}
    before = [problem.key for problem in _find_schedule_warnings(options, given)]
    return [problem for problem in _find_schedule_warnings(options, lengths) if problem.key not in before]


def _find_schedule_warnings(options: Options, lengths: Mapping[str, int | None]) -> Iterator[Problem]:
    """Yield what of the schedule lies beyond the run; ``lengths`` are its epochs and iterations, None: not known."""
    train = options.train
    warmups = {'epoch': train.warmup_epochs, 'iter': max(train.warmup_iter, 0)}
    for unit, warmup in warmups.items():
        total = lengths[unit]
        if warmup and total is not None and warmup >= total:
            option = 'warmup_epochs' if unit == 'epoch' else 'warmup_iter'
            message = f'training ends before the warm-up: after {total:,} of its {warmup:,} {_WORDS[unit]}'
            yield Problem(('train', option), message)

    # The schedule counts from the start of the run, the warm-up included.
    unit = schedule_unit(options)
    total = lengths[unit]
    if train.scheduler is None or total is None:
        return
    key: tuple[str, ...] = ('train', 'scheduler')
    period = train.scheduler.arguments.get('T_max')
    if isinstance(period, int) and period > total:
        yield Problem((*key, 'T_max'), f'training ends before, after {total:,} {_WORDS[unit]}: eta_min is not reached')
    milestones = train.scheduler.arguments.get('milestones')
    if isinstance(milestones, list):
        yield from _find_milestone_warnings(milestones, (*key, 'milestones'), total, warmups[unit], _WORDS[unit])


def _find_milestone_warnings(
    milestones: Sequence[int], key: tuple[str, ...], total: int, warmup: int, words: str
) -> Iterator[Problem]:
    if all(milestone >= total for milestone in milestones):
        shown = shorten(', '.join(map(str, milestones)))
        what = f'none of {shown} is reached: training ends after {total:,} {words}' if milestones else 'there are none'
        yield Problem(key, f'{what}, so the rates never drop')
        return
    for n, milestone in enumerate(milestones):
        if milestone >= total:
            yield Problem((*key, n), f'milestone {milestone} has no effect: training ends after {total} {words}')
        elif milestone < warmup:
            yield Problem((*key, n), f'milestone {milestone} lies within the warm-up of {warmup} {words}')
