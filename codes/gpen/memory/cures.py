"""What helps where a training step runs out of memory."""

from gpen.options import Options
from gpen.options.components import parameter_names

CHECKPOINT = 'grad_checkpoint'


def find_checkpointing(options: Options) -> dict[str, bool]:
    """Return the networks that take ``grad_checkpoint``, by option block, and whether it is on."""
    networks = {'network_g': options.network_g, 'network_d': options.network_d}
    return {
        name: bool(network.arguments.get(CHECKPOINT))
        for name, network in networks.items()
        if network is not None and CHECKPOINT in parameter_names(network)
    }


def advise(options: Options) -> str:
    """Return which options to change for less memory: first those that only cost time, then precision and batch."""
    train = options.datasets.train
    slower = [f'set {name}.{CHECKPOINT} to true' for name, is_on in find_checkpointing(options).items() if not is_on]
    if train is not None and options.micro_batches < train.batch_size_per_gpu:
        slower.insert(0, f'raise datasets.train.accumulate (now {train.accumulate})')

    # In the order of what they change in the result
    steps = [f'{", ".join(slower)} (slower, same result)'] if slower else []
    if options.train.amp is None:
        steps.append('set train.amp to bf16')
    if options.batch_size > 1:
        steps.append(f'lower datasets.train.batch_size_per_gpu (now {options.batch_size})')
    words = '; or '.join(steps) or 'choose networks for smaller images'
    return f'{words[0].upper()}{words[1:]}. python scripts/plan_memory.py -opt FILE says what fits.'
