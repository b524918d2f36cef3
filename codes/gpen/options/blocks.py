"""What option blocks are made of: sections, and the blocks that name a ``type`` with its arguments."""

from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic.fields import FieldInfo

from gpen.options.types import PositiveFloat, Probability

_MOST_GPUS = 100_000
_LONGEST_NAME = 120  # bytes; a file's name may have 255, and gets endings


def _check_num_gpu(value: Any) -> Any:
    if value == 'auto' or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_GPUS):
        return value
    raise ValueError('should be auto, 0 (the CPU) or a number of GPUs')


def _check_length(name: str) -> str:
    if len(name.encode()) > _LONGEST_NAME:
        raise ValueError(f'should have at most {_LONGEST_NAME} bytes in UTF-8')
    return name


def drop_empty(value: Any) -> Any:
    """``NAME: ~`` takes out what a base file has."""
    return {name: block for name, block in value.items() if block is not None} if isinstance(value, dict) else value


NumGpu = Annotated[
    Any,
    BeforeValidator(_check_num_gpu),
    WithJsonSchema({'anyOf': [{'const': 'auto'}, {'type': 'integer', 'minimum': 0, 'maximum': _MOST_GPUS}]}),
]
# Letters and digits of any script; also the name of a file.
Name = Annotated[str, Field(pattern=r'^[\p{L}\p{N}][\p{L}\p{M}\p{N}._-]*$'), AfterValidator(_check_length)]
Pattern = Annotated[str, Field(min_length=1)]


def takes_default(field: FieldInfo) -> bool:
    """Tell whether ``~`` at an option means its default: it has one, and ``~`` is no value of its own."""
    kinds = (field.annotation, *get_args(field.annotation))
    return not field.is_required() and Any not in kinds and type(None) not in kinds


class _Block(BaseModel):
    @model_validator(mode='before')
    @classmethod
    def _take_defaults(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        empty = {name for name, field in cls.model_fields.items() if takes_default(field)}
        return {name: value for name, value in data.items() if value is not None or name not in empty}


class Section(_Block):
    """A block with a fixed set of keys."""

    model_config = ConfigDict(extra='forbid', strict=True, use_attribute_docstrings=True)


class Component(_Block):
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
    param_groups: Annotated[dict[Name, ParamGroup], BeforeValidator(drop_empty)] = Field(default_factory=dict)
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
    batch_size_per_gpu: Annotated[int, Field(gt=0, le=65_536)] = 1
    """Images in a batch of each rank (each GPU)."""
    accumulate: Annotated[int, Field(gt=0, le=65_536)] | Literal['auto'] = 1
    """Number of micro-batches that a training batch is computed in; less memory, slower, same result. auto: as few as
    fit the free memory of the GPU, or of the computer, by the forecast of plan_memory.py."""
    num_worker_per_gpu: Annotated[int, Field(ge=0, le=1024)] = 2
    """Processes of each rank that read images; 0 reads in the main process. The samples do not depend on it."""
    prefetch_factor: Annotated[int, Field(gt=0, le=1024)] = 2
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
