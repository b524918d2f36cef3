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
    """Names of parameters, such as ecd* or generator.to_rgb*; * stands for any characters."""
    lr: PositiveFloat
    """Learning rate after the warm-up; warm-up and schedule scale it as they do the optimizer's."""


class Optimizer(Component):
    """An optimizer; further keys are its arguments (``betas``, ``weight_decay``, ...)."""

    type: str = 'Adam'
    lr: PositiveFloat = 1e-4
    """Learning rate after the warm-up."""
    param_groups: Annotated[dict[Name, ParamGroup], BeforeValidator(_drop_empty)] = Field(default_factory=dict)
    """Parameters with another rate, by a name for the logs (lr_g_NAME); where two match, the first counts."""

    @property
    def arguments(self) -> dict[str, Any]:
        """The keyword arguments for the optimizer, ``lr`` among them."""
        return {'lr': self.lr, **super().arguments}


class Scheduler(Component):
    """A learning-rate schedule; further keys are its arguments (``milestones``, ``gamma``, ...)."""

    type: str = 'MultiStepLR'
    unit: Literal['epoch', 'iter'] | None = None
    """What milestones count: epoch or iter. Default: epoch with total_epochs, iter with total_iter."""


class Dataset(Component):
    """A data set; further keys are its arguments (``dataroot_gt``, ``dataroot_lq``, ...)."""

    name: str | None = None
    """A name for logs."""
    batch_size_per_gpu: PositiveInt = 1
    """Images in a batch."""
    accumulate: PositiveInt = 1
    """Parts that a training batch is computed in, for less memory and more time; the result is that of the batch."""
    num_worker_per_gpu: NonNegativeInt = 2
    """Processes that read images; 0 reads in the main process. The samples do not depend on it."""
    prefetch_factor: PositiveInt = 2
    """Batches that each worker reads ahead."""
    pin_memory: bool = True
    """Page-locked memory for faster copies to a GPU."""


class Metric(Component):
    """A metric; further keys are its arguments (``crop_border``, ``weights``, ...)."""

    optional: bool = False
    """true: go on without it, and say so, where its weights or a package cannot be had; false: that is an error."""


class Degradation(Component):
    """A step of a degradation; further keys are its arguments."""

    probability: Probability = 1.0
    """How often the step is done at all."""


class Datasets(Section):
    """The data sets."""

    train: Dataset | None = None
    """Pairs to train on."""
    val: Dataset | None = None
    """Held-out pairs to validate on; without them there is no validation, no best file, no early stopping."""


class EmaScheduler(Section):
    """Ramp-up of the EMA (exponential moving average of the generator's weights)."""

    total_iter: NonNegativeInt = 0
    """The EMA's half-life grows linearly to its full value over these iterations; 0: full from the start."""


class EarlyStopping(Section):
    """Stop when validation no longer improves."""

    metric: str = 'psnr'
    """One of val.metrics."""
    patience: PositiveInt = 10
    """Validations without improvement before training stops."""
    min_delta: NonNegativeFloat = 0.0
    """A change below this is no improvement."""
    enabled: bool = True
    """false: train to the end whatever validation says."""


class Train(Section):
    """Optimization."""

    num_gpu: NumGpu | None = None
    """The same as num_gpu at the top level."""
    manual_seed: Seed | None = None
    """The same as manual_seed at the top level."""
    total_epochs: PositiveInt | None = None
    """Passes over the training set. Give this or total_iter."""
    total_iter: PositiveInt | None = None
    """Training steps. Give this or total_epochs."""
    warmup_epochs: NonNegativeInt = 0
    """Epochs in which the learning rates rise linearly from base_lr."""
    warmup_iter: Annotated[int, Field(ge=-1)] = 0
    """Iterations in which the learning rates rise linearly from base_lr; 0 or -1: none."""
    base_lr: NonNegativeFloat = 1e-5
    """Learning rate at the start of the warm-up."""
    optim_g: Optimizer = Field(default_factory=Optimizer)
    """Optimizer of the generator."""
    optim_d: Optimizer = Field(default_factory=lambda: Optimizer(lr=4e-4))
    """Optimizer of the discriminator."""
    freeze_g: list[Pattern] = Field(default_factory=list)
    """Names of the generator's parameters that stay as they are, such as generator.style*; * stands for any characters.
    """
    freeze_d: list[Pattern] = Field(default_factory=list)
    """The same of the discriminator's."""
    scheduler: Scheduler | None = None
    """Learning-rate schedule after the warm-up; none: constant."""
    ema_decay: Decay = DEFAULT_EMA_DECAY
    """Decay of the EMA per iteration at full half-life."""
    ema_scheduler: EmaScheduler = Field(default_factory=EmaScheduler)
    """Ramp-up of the EMA."""
    amp: Literal['bf16', 'fp16'] | None = None
    """Mixed precision: most of a step in bfloat16 or float16; R1, losses, weights and EMA stay in float32."""
    channels_last: bool = False
    """Keep images with their channels together in memory, which suits tensor cores."""
    compile: bool = False
    """Compile the networks with torch.compile; R1 stays as it is."""
    use_grad_norm: bool = False
    """Clip the gradient norm of each network to grad_norm_clip."""
    grad_norm_clip: PositiveFloat | None = None
    """Largest gradient norm of each network."""
    pixel_opt: Loss | None = None
    """Pixel loss, such as L1Loss."""
    perceptual_opt: Loss | None = None
    """VGG perceptual loss."""
    gan_opt: Loss | None = None
    """Adversarial loss; needs network_d."""
    identity_opt: Loss | None = None
    """ArcFace identity loss."""
    feature_matching_opt: Loss | None = None
    """Feature matching on the discriminator; needs gan_opt."""
    losses: Annotated[dict[str, Loss], BeforeValidator(_drop_empty)] = Field(default_factory=dict)
    """Further losses on (restored, sharp), by name; each is logged as G_loss_NAME."""
    r1_reg_weight: NonNegativeFloat = 10.0
    """Weight of the discriminator's R1 gradient penalty; 0: off."""
    net_d_reg_every: PositiveInt = 16
    """R1 is computed every so many iterations (lazy regularization) and scaled by as much."""
    path_reg_weight: NonNegativeFloat = 2.0
    """GPENPriorModel: weight of the generator's path-length penalty; 0: off."""
    net_g_reg_every: PositiveInt = 4
    """GPENPriorModel: path lengths are penalised every so many iterations, scaled by as much."""
    path_batch_shrink: PositiveInt = 2
    """GPENPriorModel: path lengths are taken of a batch that is so many times smaller, for less memory and time."""
    mixing_prob: Probability = 0.9
    """GPENPriorModel: share of samples whose upper layers get another latent than the lower ones (style mixing)."""
    net_d_iters: PositiveInt = 1
    """Discriminator steps per generator step."""
    net_d_init_iters: NonNegativeInt = 0
    """Iterations at the start in which only the discriminator learns."""
    early_stopping: EarlyStopping = Field(default_factory=EarlyStopping)
    """Stop when validation no longer improves."""


class Scoring(Section):
    """What is measured on restored images, and shown of them."""

    metrics: Annotated[dict[str, Metric], BeforeValidator(_drop_empty)] = Field(
        default_factory=lambda: {
            'psnr': Metric(type='calculate_psnr'),
            'ssim': Metric(type='calculate_ssim'),
        }
    )
    """Metrics by name."""
    num_pictures: NonNegativeInt = 3
    """Rows (input, restored, sharp) of each picture sheet, spread from the best image to the worst."""


class Val(Scoring):
    """Validation; each metric is logged as val/NAME."""

    val_freq: PositiveInt | None = None
    """Iterations between validations; default: once per epoch."""
    num_pictures: NonNegativeInt = 4
    """Validation pictures (input, restored, sharp) in TensorBoard; when scoring, rows of the picture sheet."""
    save_img: bool = False
    """Also write these pictures to experiments/NAME/visualization."""


class Logger(Section):
    """Logs and checkpoints."""

    print_freq: PositiveInt = 100
    """Iterations between records in the log, metrics.jsonl and TensorBoard."""
    save_checkpoint_freq: PositiveInt | None = None
    """Iterations between checkpoints; default: once per epoch."""
    keep_last: PositiveInt = 3
    """Numbered checkpoints to keep, beside latest and best."""
    use_tb_logger: bool = True
    """Write TensorBoard files."""
    health: bool = True
    """Watch the records for what goes wrong in adversarial training, and say what to change."""


class ResultsPath(Section):
    """Where results go."""

    experiments_root: str = 'experiments'
    """Folder that experiments/NAME is made in; a relative path starts at the project's root."""


class PathOptions(ResultsPath):
    """Files to start from, and where results go."""

    pretrain_network_g: str | None = None
    """Weights the generator starts from: published, self-trained, BasicSR, safetensors or our own."""
    param_key_g: str | None = None
    """The key in that file that holds the weights; default: found by itself, EMA first."""
    strict_load_g: bool = True
    """false: take over the weights that fit and leave the rest as initialised."""
    pretrain_network_d: str | None = None
    """Weights the discriminator starts from."""
    param_key_d: str | None = None
    """The key in that file that holds the weights; default: found by itself."""
    strict_load_d: bool = True
    """false: take over the weights that fit; where that is not most of them, the discriminator starts anew."""
    pretrain_prior: str | None = None
    """Weights of a GAN prior that the generator's decoder starts from, and the discriminator where they fit: those of a
    GPENPriorModel, or a StyleGAN2 checkpoint in rosinality's layout."""
    resume_state: str | None = None
    """A .state file to continue from, instead of the newest one (--auto_resume)."""


class DistParams(Section):
    """Known from BasicSR; torchrun says how processes find each other instead."""

    backend: Literal['nccl', 'gloo'] = 'nccl'
    port: Annotated[int, Field(ge=1024, le=65535)] = 29500


class Run(Section):
    """What every run has."""

    name: Name
    """Name of the run; its results go to experiments/NAME."""
    num_gpu: NumGpu | None = None
    """auto (a GPU for each process, if there is one), 0 (the CPU) or the GPUs of all processes. Default: auto."""
    manual_seed: Seed | None = None
    """Seed of everything that is random. Default: 0."""
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
    """Networks and how one step trains them."""
    datasets: Datasets
    """Training and validation data."""
    network_g: Component
    """The generator."""
    network_d: Component | None = None
    """The discriminator; needed by gan_opt and feature_matching_opt."""
    path: PathOptions = Field(default_factory=PathOptions)
    """Files to start from, and where results go."""
    train: Train
    """Optimization."""
    val: Val = Field(default_factory=Val)
    """Validation."""
    logger: Logger = Field(default_factory=Logger)
    """Logs and checkpoints."""
    dist_params: DistParams = Field(default_factory=DistParams)
    """Known from BasicSR, without effect here."""

    @property
    def dataset_blocks(self) -> dict[str, Dataset]:
        """The data sets that are given, by their key under ``datasets``."""
        return {phase: block for phase, block in (('train', self.datasets.train), ('val', self.datasets.val)) if block}

    @property
    def generator_losses(self) -> dict[str, Loss]:
        """The losses on (restored, sharp) that are switched on, by the NAME in their tag ``G_loss_NAME``."""
        train = self.train
        known = {'pixel': train.pixel_opt, 'perceptual': train.perceptual_opt, 'identity': train.identity_opt}
        return {name: loss for name, loss in {**known, **train.losses}.items() if loss is not None and loss.is_on}


class ScoringOptions(Run):
    """All options of a scoring run, such as options/test/gpen_512.yml."""

    models: Annotated[dict[Name, str], BeforeValidator(_drop_empty)] = Field(default_factory=dict)
    """Files of weights to score, by the name that the tables call them; --model FILE takes their place."""
    network_g: Component | None = None
    """The network that the files belong to; default: a GPEN, whose size and width are read off each file."""
    datasets: Annotated[dict[Name, Dataset], BeforeValidator(_drop_empty)]
    """Sets of pairs to score on, by the name that the tables call them."""
    val: Scoring = Field(default_factory=Scoring)
    """What is measured and shown."""

    @property
    def dataset_blocks(self) -> dict[str, Dataset]:
        """The data sets, by their key under ``datasets``."""
        return self.datasets
