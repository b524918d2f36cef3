"""The typed options: the one place that knows their names, types, ranges and defaults.

Names are BasicSR's where BasicSR has the option.  ``Component`` blocks (``network_g``, losses, datasets, ...) name a
``type``; their further keys are the arguments of what that type names, checked in :mod:`gpen.options.components`.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from gpen.options.blocks import Component, Dataset, Loss, Metric, Name, NumGpu, Section, drop_empty
from gpen.options.train import Train
from gpen.options.types import NonNegativeInt, PositiveInt, Seed
from gpen.utils.files import resolve_path


class Datasets(Section):
    """The data sets."""

    train: Dataset | None = None
    """Pairs (LQ, GT) to train on; GT alone for GPENPriorModel."""
    val: Dataset | None = None
    """Held-out pairs to validate on; without them there is no validation, no best checkpoint and no early stopping."""


class Scoring(Section):
    """Metrics and pictures of restored images."""

    metrics: Annotated[dict[Name, Metric], BeforeValidator(drop_empty)] = Field(
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


class Wandb(Section):
    """Records in wandb, too: pip install wandb; WANDB_MODE=offline keeps them on this machine."""

    project: str | None = None
    """Name of the project in wandb. Default: nothing goes to wandb."""
    resume_id: str | None = None
    """Id of a run in wandb to continue. Default: that of this run (wandb_id in run.json), else a new one."""


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
    wandb: Wandb | None = None
    """Records in wandb, too, which takes them from the TensorBoard files."""
    health: bool = True
    """Check the records for what goes wrong in adversarial training; a finding says what to change."""

    @property
    def uses_wandb(self) -> bool:
        """Whether records go to wandb."""
        return self.wandb is not None and bool(self.wandb.project)


class ResultsPath(Section):
    """Where results go."""

    experiments_root: Annotated[str, Field(min_length=1)] = 'experiments'
    """Folder of all runs; results go to experiments_root/NAME. A relative path starts at the project's root."""


class PathOptions(ResultsPath):
    """Files to start from, and where results go."""

    pretrain_network_g: str | None = None
    """Weights that the generator starts from: a file (published, self-trained, BasicSR, safetensors or our own), the
    name of a published model such as GPEN-BFR-512, which is downloaded, or hf://OWNER/REPO/FILE."""
    param_key_g: str | None = None
    """Key in that file that holds the weights. Default: found by itself, EMA first."""
    strict_load_g: bool = True
    """false: load the weights whose shapes fit and leave the rest as initialised; true: all must fit."""
    pretrain_network_d: str | None = None
    """The same for the discriminator, such as GPEN-BFR-512-D."""
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

    deterministic: bool = False
    """Deterministic algorithms, for the same bits from each run on the same kind of GPU, also after a resume; slower,
    and never run on a GPU so far. A CPU gives the same bits anyway."""
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
    def batch_size(self) -> int:
        """Training images that each rank takes at a time; 1 without a training set."""
        return self.datasets.train.batch_size_per_gpu if self.datasets.train is not None else 1

    @property
    def micro_batches(self) -> int:
        """Micro-batches of a training batch; 1 while ``accumulate`` is ``auto`` and nothing has been chosen yet."""
        train = self.datasets.train
        return 1 if train is None or train.accumulate == 'auto' else train.accumulate

    @property
    def generator_losses(self) -> dict[str, Loss]:
        """The losses on (restored, GT) that are switched on, by the NAME in their tag ``G_loss_NAME``."""
        train = self.train
        known = {'pixel': train.pixel_opt, 'perceptual': train.perceptual_opt, 'identity': train.identity_opt}
        return {name: loss for name, loss in {**known, **train.losses}.items() if loss is not None and loss.is_on}


class ScoringOptions(Run):
    """All options of a scoring run, such as options/test/gpen_512.yml."""

    models: Annotated[dict[Name, str], BeforeValidator(drop_empty)] = Field(default_factory=dict)
    """Files of weights to score, or names of published models, by the name that the tables use; --model FILE takes
    their place."""
    network_g: Component | None = None
    """The network that the files belong to. Default: a GPEN whose size and width are read from each file."""
    datasets: Annotated[dict[Name, Dataset], BeforeValidator(drop_empty)]
    """Data sets of pairs to score on, by the name that the tables use."""
    val: Scoring = Field(default_factory=Scoring)
    """Metrics and pictures."""

    @property
    def dataset_blocks(self) -> dict[str, Dataset]:
        """The data sets, by their key under ``datasets``."""
        return self.datasets
