"""The typed options: the one place that knows their names, types, ranges and defaults.

Names are BasicSR's where BasicSR has the option.  ``Component`` blocks (``network_g``, losses, datasets, ...) name a
``type``; their further keys are the arguments of what that type names, checked in :mod:`gpen.options.components`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from gpen.options.types import Decay, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Probability
from gpen.utils.files import resolve_path

DEFAULT_EMA_DECAY = 0.5 ** (32 / 10_000)  # StyleGAN2's half-life of 10,000 images at its batch of 32


def _check_num_gpu(value: Any) -> Any:
    if value == 'auto' or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    raise ValueError('should be auto, 0 (the CPU) or a number of GPUs')


def _drop_empty(value: Any) -> Any:
    """``NAME: ~`` takes out what a base file has."""
    return {name: block for name, block in value.items() if block is not None} if isinstance(value, dict) else value


NumGpu = Annotated[
    Any,
    BeforeValidator(_check_num_gpu),
    WithJsonSchema({'anyOf': [{'const': 'auto'}, {'type': 'integer', 'minimum': 0}]}),
]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Name = Annotated[str, Field(pattern=r'^[A-Za-z0-9][A-Za-z0-9._-]*$', max_length=120)]  # also the name of a file
Pattern = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """A block with a fixed set of keys."""

    model_config = ConfigDict(extra='forbid', strict=True, use_attribute_docstrings=True)


class Component(BaseModel):
    """A block that names what to build (``type``) and its arguments."""

    model_config = ConfigDict(extra='allow', strict=True, use_attribute_docstrings=True)

    type: str
    """Name of a registered class or function."""

    @property
    def arguments(self) -> dict[str, Any]:
        """The keyword arguments for what ``type`` names."""
        return dict(self.model_extra or {})

    def to_dict(self) -> dict[str, Any]:
        """``type`` and arguments as a plain dict, as the builders take it."""
        return {'type': self.type, **self.arguments}


class Loss(Component):
    """A loss; a ``loss_weight`` of 0 switches it off."""

    @property
    def is_on(self) -> bool:
        """Whether it is worth building: a weight of 0 costs nothing."""
        given = self.arguments
        if 'perceptual_weight' in given and not given['perceptual_weight'] and not given.get('style_weight'):
            return False
        return bool(given.get('loss_weight', 1))


class ParamGroup(Section):
    """Parameters with a learning rate of their own."""

    patterns: Annotated[list[Pattern], Field(min_length=1)]
    """Names of parameters, such as ecd* or generator.to_rgb* (* is any characters)."""
    lr: PositiveFloat
    """Learning rate after the warm-up; warm-up and schedule scale it as they scale that of the optimizer."""


class Optimizer(Component):
    """An optimizer; further keys are its arguments (``betas``, ``weight_decay``, ...)."""

    type: str = 'Adam'
    """Name of a registered optimizer."""
    lr: PositiveFloat = 1e-4
    """Learning rate after the warm-up."""
    param_groups: Annotated[dict[Name, ParamGroup], BeforeValidator(_drop_empty)] = Field(default_factory=dict)
    """Groups of parameters with another learning rate, by a name for the logs (lr_g_NAME). Where two groups match a
    parameter, the first counts."""

    @property
    def arguments(self) -> dict[str, Any]:
        """The keyword arguments for the optimizer, ``lr`` among them."""
        return {'lr': self.lr, **super().arguments}


class Scheduler(Component):
    """A learning-rate schedule; further keys are its arguments (``milestones``, ``gamma``, ...)."""

    type: str = 'MultiStepLR'
    """Name of a registered schedule."""
    unit: Literal['epoch', 'iter'] | None = None
    """What milestones count: epoch or iter. Default: epoch with total_epochs, iter with total_iter."""


class Dataset(Component):
    """A data set; further keys are its arguments (``dataroot_gt``, ``dataroot_lq``, ...)."""

    name: str | None = None
    """Name of the data set in logs."""
    batch_size_per_gpu: PositiveInt = 1
    """Images in a batch of each rank (each GPU)."""
    accumulate: PositiveInt = 1
    """Number of micro-batches that a training batch is computed in; less memory, slower, same result."""
    num_worker_per_gpu: NonNegativeInt = 2
    """Processes of each rank that read images; 0 reads in the main process. The samples do not depend on it."""
    prefetch_factor: PositiveInt = 2
    """Batches that each worker reads ahead."""
    pin_memory: bool = True
    """Copy batches to page-locked memory, from which a GPU reads faster."""


class Metric(Component):
    """A metric; further keys are its arguments (``crop_border``, ``weights``, ...)."""

    optional: bool = False
    """true: where the metric's weights or a package cannot be had, leave it out and say so; false: that is an error."""


class Degradation(Component):
    """A step of a degradation; further keys are its arguments."""

    probability: Probability = 1.0
    """Probability that the step is applied to a sample."""


class Datasets(Section):
    """The data sets."""

    train: Dataset | None = None
    """Pairs (LQ, GT) to train on; GT alone for GPENPriorModel."""
    val: Dataset | None = None
    """Held-out pairs to validate on; without them there is no validation, no best checkpoint and no early stopping."""


class Augment(Section):
    """Differentiable augmentation of what the discriminator sees, for training on few images."""

    policy: Annotated[list[Literal['color', 'translation', 'cutout']], Field(min_length=1)] = Field(
        default_factory=lambda: ['color', 'translation', 'cutout']
    )
    """Kinds of change: DiffAugment's."""
    probability: Probability = 1.0
    """Probability of each change of each image."""
    ada_target: Annotated[float, Field(gt=-1, lt=1)] | None = None
    """Adapt the probability, from 0 on, so that the mean sign of the discriminator's logits on GT images stays here, in
    place of probability; StyleGAN2-ADA has 0.6."""
    ada_images: PositiveFloat = 500_000
    """Images in which the adaptive probability can rise from 0 to 1."""


class EmaScheduler(Section):
    """Ramp-up of the EMA (exponential moving average of the generator's weights)."""

    total_iter: NonNegativeInt = 0
    """Iterations over which the EMA's half-life grows linearly from 0 to its full value; 0: full from the start."""
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    """The half-life is at most this share of the training so far, in place of total_iter; StyleGAN2-ADA has 0.05."""


class EarlyStopping(Section):
    """Stop when validation no longer improves."""

    metric: str = 'psnr'
    """The metric that is watched, one of val.metrics."""
    patience: PositiveInt = 10
    """Validations without improvement before training stops."""
    min_delta: NonNegativeFloat = 0.0
    """Smallest change of the metric that counts as an improvement."""
    min_iter: NonNegativeInt | None = None
    """Training does not stop early before this iteration, and the patience is counted from there on. Default: when the
    warm-up and the ramp-up of the EMA are over, or half of the run, whichever comes first."""
    enabled: bool = True
    """false: train to the end whatever the metric does."""


class Train(Section):
    """Length, losses and optimization."""

    num_gpu: NumGpu | None = None
    """The same as num_gpu at the top level."""
    manual_seed: Seed | None = None
    """The same as manual_seed at the top level."""
    total_epochs: PositiveInt | None = None
    """Length of the training in epochs (passes over the training set). Give this or total_iter."""
    total_iter: PositiveInt | None = None
    """Length of the training in iterations (training steps). Give this or total_epochs."""
    warmup_epochs: NonNegativeInt = 0
    """Length of the warm-up in epochs, in which the rates rise linearly, in each iteration, from base_lr."""
    warmup_iter: Annotated[int, Field(ge=-1)] = 0
    """Length of the warm-up in iterations; 0 or -1: no warm-up."""
    base_lr: NonNegativeFloat = 1e-5
    """Learning rate at the start of the warm-up."""
    optim_g: Optimizer = Field(default_factory=Optimizer)
    """Optimizer of the generator."""
    optim_d: Optimizer = Field(default_factory=lambda: Optimizer(lr=4e-4))
    """Optimizer of the discriminator."""
    freeze_g: list[Pattern] = Field(default_factory=list)
    """Names of the generator's parameters that are not trained, such as generator.style* (* is any characters)."""
    freeze_d: list[Pattern] = Field(default_factory=list)
    """Names of the discriminator's parameters that are not trained."""
    scheduler: Scheduler | None = None
    """Learning-rate schedule after the warm-up. Default: constant rates."""
    ema_decay: Decay | None = DEFAULT_EMA_DECAY
    """Decay of the EMA per iteration, once its half-life is full. The default is StyleGAN2's."""
    ema_halflife_images: PositiveFloat | None = None
    """Half-life of the EMA in images, whatever the batch size, in place of ema_decay; StyleGAN2 has 10,000."""
    ema_scheduler: EmaScheduler = Field(default_factory=EmaScheduler)
    """Ramp-up of the EMA."""
    amp: Literal['bf16', 'fp16'] | None = None
    """Mixed precision: most of a step runs in bfloat16 or float16 (with a loss scale, which is saved with the training
    state); R1, losses, weights and EMA stay in float32. Default: float32 throughout."""
    channels_last: bool = False
    """Store images and weights in the channels-last memory format, which suits tensor cores."""
    compile: bool = False
    """Compile the networks with torch.compile; R1 is not compiled."""
    use_grad_norm: bool = False
    """Clip the gradient norm of generator and discriminator (not those of component_opt) to grad_norm_clip."""
    grad_norm_clip: PositiveFloat | None = None
    """Largest gradient norm of each network; needs use_grad_norm."""
    pixel_opt: Loss | None = None
    """Pixel loss, such as L1Loss."""
    perceptual_opt: Loss | None = None
    """VGG perceptual loss, such as PerceptualLoss."""
    gan_opt: Loss | None = None
    """Adversarial loss, such as GANLoss; needs network_d."""
    identity_opt: Loss | None = None
    """ArcFace identity loss, such as IdentityLoss."""
    feature_matching_opt: Loss | None = None
    """Feature matching on the discriminator, such as FeatureMatchingLoss; needs gan_opt."""
    component_opt: Loss | None = None
    """Adversarial and style losses on the eyes and the mouth, with discriminators of their own, such as ComponentLoss;
    needs gan_opt and datasets.train.landmarks. Their optimizer is as optim_d."""
    losses: Annotated[dict[str, Loss], BeforeValidator(_drop_empty)] = Field(default_factory=dict)
    """Further losses on (restored, GT), by name; each is logged as G_loss_NAME."""
    r1_reg_weight: NonNegativeFloat = 10.0
    """Weight of the discriminator's R1 gradient penalty; 0: off."""
    net_d_reg_every: PositiveInt = 16
    """Iterations from one R1 penalty to the next (lazy regularization); the penalty is multiplied by this number."""
    path_reg_weight: NonNegativeFloat | None = None
    """Weight of the generator's path-length penalty; 0: off. Default: 2 for GPENPriorModel, 0 for GPENModel."""
    net_g_reg_every: PositiveInt = 4
    """Iterations from one path-length penalty to the next; the penalty is multiplied by this number."""
    path_batch_shrink: PositiveInt = 2
    """Path lengths are computed on a batch smaller by this factor; less memory, faster."""
    mixing_prob: Probability = 0.9
    """Probability of style mixing: the upper layers of a sample get another latent than the lower ones. GPENPriorModel
    only."""
    augment_opt: Augment | None = None
    """Differentiable augmentation of GT and restored images before the discriminator sees them; needs gan_opt."""
    net_d_iters: PositiveInt = 1
    """Discriminator steps per generator step."""
    net_d_init_iters: NonNegativeInt = 0
    """Iterations at the start in which only the discriminator is trained."""
    early_stopping: EarlyStopping = Field(default_factory=EarlyStopping)
    """Stop when validation no longer improves."""


class Scoring(Section):
    """Metrics and pictures of restored images."""

    metrics: Annotated[dict[Name, Metric], BeforeValidator(_drop_empty)] = Field(
        default_factory=lambda: {
            'psnr': Metric(type='calculate_psnr'),
            'ssim': Metric(type='calculate_ssim'),
        }
    )
    """Metrics by name."""
    num_pictures: NonNegativeInt = 3
    """Rows (LQ, restored, GT) of each picture sheet, spread from the best image to the worst."""


class Val(Scoring):
    """Validation; each metric is logged as val/NAME."""

    val_freq: PositiveInt | None = None
    """Iterations between validations. Default: once per epoch."""
    num_pictures: NonNegativeInt = 4
    """Validation pictures (LQ, restored, GT) in TensorBoard; when scoring, rows of the picture sheet."""
    save_img: bool = False
    """Also write these pictures to experiments/NAME/visualization."""


class Logger(Section):
    """Logs and checkpoints."""

    print_freq: PositiveInt = 100
    """Iterations between records in the log, metrics.jsonl and TensorBoard."""
    save_checkpoint_freq: PositiveInt | None = None
    """Iterations between checkpoints. Default: once per epoch."""
    keep_last: PositiveInt = 3
    """Numbered checkpoints to keep, beside latest and best."""
    use_tb_logger: bool = True
    """Also write the records as TensorBoard files."""
    health: bool = True
    """Check the records for what goes wrong in adversarial training; a finding says what to change."""


class ResultsPath(Section):
    """Where results go."""

    experiments_root: str = 'experiments'
    """Folder of all runs; results go to experiments_root/NAME. A relative path starts at the project's root."""


class PathOptions(ResultsPath):
    """Files to start from, and where results go."""

    pretrain_network_g: str | None = None
    """File of weights that the generator starts from: published, self-trained, BasicSR, safetensors or our own."""
    param_key_g: str | None = None
    """Key in that file that holds the weights. Default: found by itself, EMA first."""
    strict_load_g: bool = True
    """false: load the weights whose shapes fit and leave the rest as initialised; true: all must fit."""
    pretrain_network_d: str | None = None
    """File of weights that the discriminator starts from."""
    param_key_d: str | None = None
    """Key in that file that holds the weights. Default: found by itself."""
    strict_load_d: bool = True
    """false: load the weights whose shapes fit, if those are most of them; else the discriminator starts anew."""
    pretrain_prior: str | None = None
    """File of a GAN prior (of a GPENPriorModel, or a StyleGAN2 checkpoint in rosinality's layout) that the generator's
    decoder starts from, and the discriminator where its weights fit."""
    resume_state: str | None = None
    """Training state (a .state file) to continue from, instead of the newest one (--auto_resume)."""


class DistParams(Section):
    """Known from BasicSR, without effect here: torchrun says how ranks find each other."""

    backend: Literal['nccl', 'gloo'] = 'nccl'
    """No effect."""
    port: Annotated[int, Field(ge=1024, le=65535)] = 29500
    """No effect."""


class Run(Section):
    """Options of every run."""

    name: Name
    """Name of the run; its results go to experiments/NAME."""
    num_gpu: NumGpu | None = None
    """auto (a GPU for each rank, if there is one), 0 (the CPU) or the number of GPUs of all ranks. Default: auto."""
    manual_seed: Seed | None = None
    """Seed of every random number. Default: 0."""
    path: ResultsPath = Field(default_factory=ResultsPath)
    """Where results go."""

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.manual_seed or 0

    @property
    def experiment_folder(self) -> Path:
        """Where the run's results go."""
        return resolve_path(self.path.experiments_root) / self.name


class Options(Run):
    """All options of a training run."""

    model_type: str = 'GPENModel'
    """What a training step does: GPENModel trains a generator to restore, GPENPriorModel trains a GAN prior."""
    datasets: Datasets
    """Training and validation data."""
    network_g: Component
    """The generator."""
    network_d: Component | None = None
    """The discriminator; needed by gan_opt and feature_matching_opt."""
    path: PathOptions = Field(default_factory=PathOptions)
    """Files to start from, and where results go."""
    train: Train
    """Length, losses and optimization."""
    val: Val = Field(default_factory=Val)
    """Validation."""
    logger: Logger = Field(default_factory=Logger)
    """Logs and checkpoints."""
    dist_params: DistParams = Field(default_factory=DistParams)
    """Known from BasicSR, without effect here: torchrun says how ranks find each other."""

    @property
    def dataset_blocks(self) -> dict[str, Dataset]:
        """The data sets that are given, by their key under ``datasets``."""
        return {phase: block for phase, block in (('train', self.datasets.train), ('val', self.datasets.val)) if block}

    @property
    def generator_losses(self) -> dict[str, Loss]:
        """The losses on (restored, GT) that are switched on, by the NAME in their tag ``G_loss_NAME``."""
        train = self.train
        known = {'pixel': train.pixel_opt, 'perceptual': train.perceptual_opt, 'identity': train.identity_opt}
        return {name: loss for name, loss in {**known, **train.losses}.items() if loss is not None and loss.is_on}


class ScoringOptions(Run):
    """All options of a scoring run, such as options/test/gpen_512.yml."""

    models: Annotated[dict[Name, str], BeforeValidator(_drop_empty)] = Field(default_factory=dict)
    """Files of weights to score, by the name that the tables use; --model FILE takes their place."""
    network_g: Component | None = None
    """The network that the files belong to. Default: a GPEN whose size and width are read from each file."""
    datasets: Annotated[dict[Name, Dataset], BeforeValidator(_drop_empty)]
    """Data sets of pairs to score on, by the name that the tables use."""
    val: Scoring = Field(default_factory=Scoring)
    """Metrics and pictures."""

    @property
    def dataset_blocks(self) -> dict[str, Dataset]:
        """The data sets, by their key under ``datasets``."""
        return self.datasets
