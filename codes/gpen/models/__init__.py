"""Models: networks, losses and optimizers, and what one training step does with them."""

import torch

from gpen.models.adversarial import AdversarialModel
from gpen.options.schema import Options
from gpen.registry import MODEL_REGISTRY


def build_model(options: Options, device: torch.device) -> AdversarialModel:
    """Build the model that ``model_type`` names."""
    return MODEL_REGISTRY.get(options.model_type)(options, device)
