"""A name in an option file -> a class or function.

A component of the package takes one file and one decorator; no list has to be edited:

    # codes/gpen/losses/my_loss.py
    @LOSS_REGISTRY.register
    class MyLoss(torch.nn.Module): ...

One from outside the package takes neither: its dotted path, such as ``my_project.losses.MyLoss``, is its name.

Names are found by reading source files, not by importing them: a name, its arguments and their types are known without
importing torch, and only the one module that defines the chosen name is ever imported.  A name that is not ours is
looked up in BasicSR's registry, when ``basicsr`` is installed.
"""

from gpen.registry.basicsr import BasicSR
from gpen.registry.registry import Registry

ARCH_REGISTRY = Registry('network', 'gpen.archs', 'ARCH_REGISTRY', fallback=BasicSR('ARCH_REGISTRY'))
DATASET_REGISTRY = Registry('dataset', 'gpen.data', 'DATASET_REGISTRY', fallback=BasicSR('DATASET_REGISTRY'))
DEGRADATION_REGISTRY = Registry('degradation', 'gpen.data.degradations', 'DEGRADATION_REGISTRY', given=2)
LOSS_REGISTRY = Registry('loss', 'gpen.losses', 'LOSS_REGISTRY', fallback=BasicSR('LOSS_REGISTRY'))
METRIC_REGISTRY = Registry('metric', 'gpen.metrics', 'METRIC_REGISTRY', given=2, fallback=BasicSR('METRIC_REGISTRY'))
MODEL_REGISTRY = Registry('model', 'gpen.models', 'MODEL_REGISTRY', given=2)
OPTIMIZER_REGISTRY = Registry('optimizer', 'gpen.models', 'OPTIMIZER_REGISTRY', given=1)
SCHEDULER_REGISTRY = Registry('scheduler', 'gpen.training', 'SCHEDULER_REGISTRY')
