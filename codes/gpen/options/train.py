"""The options of ``train``: length, losses and optimization."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from gpen.options.blocks import Loss, NumGpu, Optimizer, Pattern, Scheduler, Section, drop_empty
from gpen.options.types import (
    LARGEST,
    Decay,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Probability,
    Seed,
)

DEFAULT_EMA_DECAY = 0.5 ** (32 / 10_000)  # StyleGAN2's half-life of 10,000 images at its batch of 32

Change = Literal['color', 'translation', 'cutout']
CHANGES: tuple[Change, ...] = ('color', 'translation', 'cutout')


class Augment(Section):
    """Differentiable augmentation of what the discriminator sees, for training on few images."""

    policy: Annotated[list[Change], Field(min_length=1)] = Field(default_factory=lambda: [*CHANGES])
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
    warmup_iter: Annotated[int, Field(ge=-1, le=LARGEST)] = 0
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
    ema_halflife_images: Annotated[float, Field(gt=0, le=LARGEST)] | None = None
    """Half-life of the EMA in images, whatever the batch size, in place of ema_decay; StyleGAN2 has 10,000."""
    ema_scheduler: EmaScheduler = Field(default_factory=EmaScheduler)
    """Ramp-up of the EMA."""
    amp: Literal['bf16', 'fp16'] | None = None
    """Mixed precision: most of a step runs in bfloat16 or float16 (with a loss scale, which is saved with the training
    state), the fixed networks of losses (VGG, ArcFace, LPIPS) too. Images, logits, distances (not that of LPIPS),
    R1, path lengths, weights and EMA stay in float32. Default: float32 throughout, see tf32."""
    tf32: bool = True
    """Convolutions in float32 use TF32 (a mantissa of 10 bits) on GPUs from Ampere on, which is several times faster;
    false: IEEE float32. Matrix products are in IEEE float32 either way, and so is R1 with the discriminator's step that
    it is part of (but for what amp lowers there). Without effect on a CPU."""
    channels_last: bool | None = None
    """Store images in the channels-last memory format, which suits tensor cores. Default: on a CPU only, where steps
    take up to a fifth less time."""
    compile: bool = False
    """Compile the networks with torch.compile; R1 is not compiled."""
    grad_compression: Literal['bf16', 'fp16'] | None = None
    """Round gradients to bfloat16 or float16 on their way between ranks, which halves what is sent. float16 is finer,
    but entries below 6e-8 become 0. Default: they are sent in float32."""
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
    losses: Annotated[dict[str, Loss], BeforeValidator(drop_empty)] = Field(default_factory=dict)
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
