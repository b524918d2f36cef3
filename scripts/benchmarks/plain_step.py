"""A training step with the published code's formulas, with which the benchmark compares ours.

The networks are functions of the keys of a published file and use no module of :mod:`gpen.archs`, so that none of its
optimisations gets in here: a weight per sample and a grouped convolution; zero insertion, padding and one 2-D filter;
bias, activation and gain element by element; features concatenated; a blur at full resolution before every convolution
with stride 2.  The step restores the images twice, once without gradients for the discriminator and once for the
generator; Adam and the EMA update one parameter at a time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpen.archs.channels import log2_size
from gpen.archs.ops import reference
from gpen.models.gpen_model import GPENModel

MAPPING_LR_MUL = 0.01


class Weights:
    """The parameters of one module of a network, by their keys in its state dict.

    Args:
        tensors: the parameters of the whole network.
        depthwise: compute filters with :func:`_upfirdn2d_depthwise`.
        prefix: prefix of the module's keys.
    """

    def __init__(self, tensors: Mapping[str, Tensor], depthwise: bool, prefix: str = '') -> None:
        self._tensors = tensors
        self._depthwise = depthwise
        self._prefix = prefix

    def __getitem__(self, key: str) -> Tensor:
        return self._tensors[self._prefix + key]

    def __contains__(self, key: str) -> bool:
        return self._prefix + key in self._tensors

    def at(self, module: str) -> Weights:
        """Return the parameters of a module inside this one."""
        return Weights(self._tensors, self._depthwise, f'{self._prefix}{module}.')

    def filter(self, x: Tensor, gain: float, padding: tuple[int, int], up: int = 1) -> Tensor:
        """Insert ``up - 1`` zeros after each pixel, and filter with [1, 3, 3, 1] of sum ``gain``."""
        upfirdn2d = _upfirdn2d_depthwise if self._depthwise else reference.upfirdn2d
        return upfirdn2d(x, _make_kernel(gain, x.dtype), up=up, padding=padding)


def restore(weights: Weights, lq: Tensor) -> Tensor:
    """Restore faces with the parameters of a GPEN that concatenates features: N x 3 x S x S -> N x 3 x S x S."""
    features = []
    x = lq
    for index in range(log2_size(lq.shape[-1]) - 1):
        x = _conv_layer(weights.at(f'ecd{index}.0'), x, downsample=index > 0)
        features.append(x)
    code = _linear(weights.at('final_linear.0'), x.flatten(1), activate=True)
    return _synthesize(weights.at('generator'), code, features[::-1])


def judge(weights: Weights, images: Tensor) -> Tensor:
    """Judge images with GPENDiscriminator's parameters: N x 3 x S x S to logits N x 1."""
    x = _conv_layer(weights.at('convs.0'), images)
    for index in range(1, log2_size(images.shape[-1]) - 1):
        x = _residual_block(weights.at(f'convs.{index}'), x)
    # The standard deviation is that of the batch as in ours, not of groups of up to four as published.
    deviation = torch.sqrt(x.var(dim=0, unbiased=False) + 1e-8).mean()
    x = torch.cat([x, deviation.expand(len(x), 1, *x.shape[2:])], dim=1)
    x = _conv_layer(weights.at('final_conv'), x)
    x = _linear(weights.at('final_linear.0'), x.flatten(1), activate=True)
    return _linear(weights.at('final_linear.1'), x)


def _synthesize(weights: Weights, code: Tensor, features: Sequence[Tensor]) -> Tensor:
    """Generate images N x 3 x S x S from a code N x style_dim and features from 4 x 4 upwards."""
    # Mapping network.
    latent = code * torch.rsqrt(code.square().mean(dim=1, keepdim=True) + 1e-8)
    index = 1
    while f'style.{index}.weight' in weights:
        latent = _linear(weights.at(f'style.{index}'), latent, MAPPING_LR_MUL, activate=True)
        index += 1

    # Synthesis network.
    x = weights['input.input'].repeat(len(code), 1, 1, 1)
    x = _styled_conv(weights.at('conv1'), x, latent, features[0])
    image = _to_rgb(weights.at('to_rgb1'), x, latent)
    for level, feature in enumerate(features[1:]):
        x = _styled_conv(weights.at(f'convs.{2 * level}'), x, latent, feature, upsample=True)
        x = _styled_conv(weights.at(f'convs.{2 * level + 1}'), x, latent, feature)
        rgb = _to_rgb(weights.at(f'to_rgbs.{level}'), x, latent)
        image = rgb + weights.filter(image, 4.0, padding=(2, 1), up=2)
    return image


def _styled_conv(weights: Weights, x: Tensor, latent: Tensor, feature: Tensor, upsample: bool = False) -> Tensor:
    x = _modulated_conv(weights.at('conv'), x, latent, upsample=upsample)
    x = torch.cat([x, weights['noise.weight'] * feature], dim=1)
    return _activate(x, weights['activate.bias'])


def _to_rgb(weights: Weights, x: Tensor, latent: Tensor) -> Tensor:
    return _modulated_conv(weights.at('conv'), x, latent, demodulate=False) + weights['bias']


def _modulated_conv(
    weights: Weights, x: Tensor, latent: Tensor, demodulate: bool = True, upsample: bool = False
) -> Tensor:
    weight = _scaled(weights['weight'][0])
    style = _linear(weights.at('modulation'), latent)
    x = reference.modulated_conv2d(x, weight, style, demodulate, upsample)
    return weights.filter(x, 4.0, padding=(1, 1)) if upsample else x


def _residual_block(weights: Weights, x: Tensor) -> Tensor:
    residual = _conv_layer(weights.at('conv1'), x)
    residual = _conv_layer(weights.at('conv2'), residual, downsample=True)
    blurred = weights.filter(x, 1.0, padding=(1, 1))
    skip = F.conv2d(blurred, _scaled(weights['skip.1.weight']), stride=2)
    return (residual + skip) / math.sqrt(2)


def _conv_layer(weights: Weights, x: Tensor, downsample: bool = False) -> Tensor:
    first = int(downsample)  # index of the convolution in the nn.Sequential, after the blur if there is one
    weight = _scaled(weights[f'{first}.weight'])
    size = weight.shape[-1]
    if downsample:
        x = weights.filter(x, 1.0, padding=((size + 1) // 2,) * 2)
        x = F.conv2d(x, weight, stride=2)
    else:
        x = F.conv2d(x, weight, padding=size // 2)
    return _activate(x, weights[f'{first + 1}.bias'])


def _activate(x: Tensor, bias: Tensor) -> Tensor:
    # As published; the version in gpen.archs.ops.reference, which is for comparing values, would be slower.
    return F.leaky_relu(x + bias.view(1, -1, 1, 1), 0.2) * math.sqrt(2)


def _linear(weights: Weights, x: Tensor, lr_mul: float = 1.0, activate: bool = False) -> Tensor:
    return reference.equal_linear(x, weights['weight'], weights['bias'], lr_mul, activate)


def _scaled(weight: Tensor) -> Tensor:
    """Return O x I x K x K weights with their equalised learning rate."""
    return weight / math.sqrt(weight[0].numel())


@cache
def _make_kernel(gain: float, dtype: torch.dtype) -> Tensor:
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=dtype)
    return torch.outer(taps, taps) * (gain / 64)


def _upfirdn2d_depthwise(x: Tensor, kernel: Tensor, up: int, padding: tuple[int, int]) -> Tensor:
    """Return the result of the plain ``upfirdn2d`` by a depthwise convolution, without a batch of single channels.

    On a CPU, PyTorch has no fast kernel for the gradient of a convolution of one channel with one filter, and most of
    the plain step's time can go there.  This variant shows how much.
    """
    batch, channels, height, width = x.shape
    if up > 1:
        spread = x.new_zeros(batch, channels, height, up, width, up)
        spread[:, :, :, 0, :, 0] = x
        x = spread.reshape(batch, channels, height * up, width * up)
    weight = kernel.flip(0, 1).expand(channels, 1, -1, -1)
    return F.conv2d(F.pad(x, (*padding, *padding)), weight, groups=channels)


class PlainStep:
    """The plain training step, on the parameters of a new model.

    Args:
        model: a model with an L1 loss of weight 1 and a logistic GAN loss; its own ``train_step`` is not to be used.
        depthwise: compute filters as depthwise convolutions, unlike the published code.
    """

    def __init__(self, model: GPENModel, depthwise: bool = False) -> None:
        self._depthwise = depthwise
        assert model.net_d is not None
        assert model.optimizer_d is not None
        self.train = model.options.train
        self.ema_schedule = model.ema_schedule
        self.gan_weight: float = model.gan.loss_weight
        self.net_g, self.net_d = _take_parameters(model.net_g), _take_parameters(model.net_d)
        self.ema = _take_parameters(model.net_g_ema)
        self.optimizer_g = _build_adam(self.net_g, model.optimizer_g.defaults)
        self.optimizer_d = _build_adam(self.net_d, model.optimizer_d.defaults)

    def __call__(self, batch: Mapping[str, Any], iteration: int) -> dict[str, float]:
        """Train on ``lq`` and ``gt``, N x 3 x S x S; return the losses under the names of our step."""
        lq, gt = batch['lq'], batch['gt']
        losses = self._step_discriminator(lq, gt, iteration) | self._step_generator(lq, gt)
        self._update_ema(iteration)
        return {name: loss.item() for name, loss in losses.items()}

    def _step_discriminator(self, lq: Tensor, gt: Tensor, iteration: int) -> dict[str, Tensor]:
        _set_requires_grad(self.net_d, True)
        net_d = self._view(self.net_d)
        with torch.no_grad():
            fake = restore(self._view(self.net_g), lq)

        # Adversarial loss.
        regularize = self.train.r1_reg_weight > 0 and iteration % self.train.net_d_reg_every == 0
        real = gt.detach().requires_grad_(regularize)
        fake_logits, real_logits = judge(net_d, fake), judge(net_d, real)
        losses = {'D_loss_real': F.softplus(-real_logits).mean(), 'D_loss_fake': F.softplus(fake_logits).mean()}
        total = losses['D_loss_real'] + losses['D_loss_fake']

        # Lazy R1.
        if regularize:
            (gradient,) = torch.autograd.grad(real_logits.sum(), real, create_graph=True)
            losses['D_r1'] = gradient.square().flatten(1).sum(1).mean()
            total = total + losses['D_r1'] * (self.train.r1_reg_weight / 2 * self.train.net_d_reg_every)

        self.optimizer_d.zero_grad()
        total.backward()
        self.optimizer_d.step()
        return losses

    def _step_generator(self, lq: Tensor, gt: Tensor) -> dict[str, Tensor]:
        _set_requires_grad(self.net_d, False)
        restored = restore(self._view(self.net_g), lq)
        adversarial = self.gan_weight * F.softplus(-judge(self._view(self.net_d), restored)).mean()
        losses = {'G_loss_pixel': F.l1_loss(restored, gt), 'G_loss_adv': adversarial}
        self.optimizer_g.zero_grad()
        (losses['G_loss_pixel'] + losses['G_loss_adv']).backward()
        self.optimizer_g.step()
        return losses

    def _view(self, parameters: dict[str, nn.Parameter]) -> Weights:
        return Weights(parameters, self._depthwise)

    @torch.no_grad()
    def _update_ema(self, iteration: int) -> None:
        decay = self.ema_schedule.at(iteration)
        for name, average in self.ema.items():
            average.mul_(decay).add_(self.net_g[name], alpha=1 - decay)


def _take_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    parameters = dict(network.named_parameters())
    for parameter in parameters.values():
        parameter.data = parameter.data.contiguous()  # our networks may use another memory format
    return parameters


def _build_adam(parameters: dict[str, nn.Parameter], defaults: Mapping[str, Any]) -> torch.optim.Adam:
    chosen = {name: defaults[name] for name in ('lr', 'betas', 'eps')}
    return torch.optim.Adam(list(parameters.values()), foreach=False, fused=False, **chosen)


def _set_requires_grad(parameters: dict[str, nn.Parameter], value: bool) -> None:
    for parameter in parameters.values():
        parameter.requires_grad_(value)
