"""Counts the kernels that inductor would fuse on a GPU, without one.

The graphs of a network's forward and backward pass are traced on the CPU, moved to CUDA, and lowered by inductor up to
the point where it would write Triton code: by then it has decided which operations are one kernel, and knows which
buffers each one reads and writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._dynamo import utils as dynamo_utils
from torch._dynamo.device_interface import CudaInterface
from torch._functorch.aot_autograd import aot_module
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor import compile_fx, ir, scheduler
from torch._inductor.debug import DebugContext
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, GraphModule, Node
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry

from benchmarks.fake_gpu import CUDA
from benchmarks.kernels import CONVOLUTIONS, Call, Convolution, Kernel, KernelCounter, Work, describe_product
from gpen.archs.ops import conv, upfirdn
from gpen.archs.ops.conv import transpose
from gpen.utils.arithmetic import uses_tf32

# What inductor asks the driver for, of an H100.
PROPERTIES = SimpleNamespace(
    type='cuda',
    name='H100',
    index=0,
    major=9,
    minor=0,
    multi_processor_count=132,
    regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=2048,
    warp_size=32,
    total_memory=80 * 2**30,
    shared_memory_per_block=48 * 2**10,
    shared_memory_per_block_optin=227 * 2**10,
    L2_cache_size=50 * 2**20,
    gcnArchName='',
)


def compile_networks(model: Any, counter: KernelCounter) -> None:
    """Let a model on fake tensors of the CPU run the networks that ``train.compile`` compiles as inductor would."""
    model.run_g = CompiledNetwork(model.net_g, counter)
    if model.net_d is not None:
        model.run_d = CompiledNetwork(model.net_d, counter)


class CompiledNetwork:
    """A network whose calls count as the kernels that inductor makes of them.

    Args:
        network: on fake tensors of the CPU.
        counter: what the kernels are added to; it is entered while the network is called.
    """

    def __init__(self, network: nn.Module, counter: KernelCounter) -> None:
        self._network = network
        self._counter = counter
        self._graphs: dict[Any, Callable[..., Any]] = {}

    def __call__(self, x: Tensor, **arguments: Any) -> Any:
        """Call the network; the first call of a kind traces and lowers it, with the operations of a GPU."""
        learns = any(parameter.requires_grad for parameter in self._network.parameters())
        kind = (x.shape, x.requires_grad, learns, torch.is_grad_enabled(), uses_tf32(), *arguments.items())
        with (
            self._counter.pause(),
            patch.object(dynamo_utils, 'assert_no_fake_params_or_buffers', lambda _: None),
            patch.object(torch.compiler, 'is_compiling', lambda: True),
            patch.object(conv, 'transpose', _transpose),
            patch.object(upfirdn, 'transpose', _transpose),
        ):
            if kind not in self._graphs:
                self._graphs[kind] = aot_module(
                    _Call(self._network, arguments),
                    fw_compiler=self._compile,
                    bw_compiler=partial(self._compile, is_backward=True),
                    partition_fn=partial(min_cut_rematerialization_partition, compiler='inductor'),
                    decompositions=select_decomp_table(),
                )
            return self._graphs[kind](x)

    def _compile(self, graph: GraphModule, inputs: Sequence[Any], is_backward: bool = False) -> Callable[..., Any]:
        with self._counter.pause():
            kernels = lower(graph, inputs, is_backward)

        def run(arguments: list[Any]) -> Any:
            with self._counter.pause():
                result = graph(*arguments)
            self._counter.calls += kernels
            return result

        run._boxed_call = True  # type: ignore[attr-defined]
        return run


class _Call(nn.Module):
    """A network with fixed arguments beside the first."""

    def __init__(self, network: nn.Module, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.network = network
        self.arguments = arguments

    def forward(self, x: Tensor) -> Any:
        return self.network(x, **self.arguments)


def _transpose(x: Tensor, weight: Tensor, size: tuple[int, int], stride: int, padding: int, groups: int) -> Tensor:
    """Return the transpose of a convolution by the operation that :func:`conv.transpose` chooses on a GPU."""
    arguments = (x, weight, size, stride, padding, groups)
    return conv.gradient_of_images(*arguments) if groups > 1 and stride > 1 else transpose(*arguments)


def lower(graph: GraphModule, inputs: Sequence[Any], is_backward: bool) -> list[Call]:
    """Return the kernels that inductor makes of a graph on a GPU.

    Args:
        graph: of ATen operations, on fake tensors of the CPU; it stays as it is.
        inputs: of the graph.
        is_backward: whether it is a backward pass.
    """
    with _pretend_card(), ExitStack() as stack:
        # A copy on CUDA
        fake = FakeTensorMode(allow_non_fake_inputs=True)
        with fake:
            inputs = tree_map_only(Tensor, _move, list(inputs))
        module = _copy_to_cuda(graph)

        # Inductor's passes, as in its compile_fx
        compile_fx.view_to_reshape(module)
        compile_fx.fake_tensor_prop(module, inputs)
        compile_fx._recursive_record_original_output_strides(module)
        stack.enter_context(V.set_fake_mode(fake))
        compile_fx._recursive_post_grad_passes(module)

        # Lowering and fusion
        lowering = GraphLowering(module, example_inputs=inputs, shape_env=fake.shape_env, is_backward=is_backward)
        for context in (
            V.set_debug_handler(DebugContext()),
            V.set_graph_handler(lowering),
            V.set_extern_kernel_nodes([]),
        ):
            stack.enter_context(context)
        lowering.run(*inputs)
        lowering.init_wrapper_code()
        lowering._update_scheduler()

        with fake:
            return [call for node in lowering.scheduler.nodes for call in _describe(node)]


def _describe(node: Any) -> list[Call]:
    """Return the kernels of one of the scheduler's nodes."""
    traffic = node.get_read_write_buffers_sizes()
    if not node.is_extern():
        name = 'fused reduction' if node.is_reduction() else 'fused pointwise'
        return [(Kernel(name), Work(0, traffic, 1))] if traffic else []
    if isinstance(node.node, ir.MultiOutput) or traffic == 0:
        return []

    # An operation that inductor leaves to a library
    origins = [node.node.origin_node] if node.node.origin_node is not None else list(node.node.get_origins())
    for origin in origins:
        operation: Any = getattr(origin.target, 'overloadpacket', None)
        args, kwargs, result = tree_map_only(
            Node, lambda argument: argument.meta['val'], (origin.args, dict(origin.kwargs), origin)
        )
        if operation in CONVOLUTIONS:
            convolution = Convolution.of(operation, args, result)
            return [(convolution.kernel, convolution.work)]
        if operation in flop_registry:
            return [describe_product(operation, args, kwargs, result, traffic)]
    return [(Kernel(node.node.get_name()), Work(0, traffic, 1))]


def _copy_to_cuda(graph: GraphModule) -> GraphModule:
    """Return a copy of a graph that makes its tensors on CUDA."""
    copy = Graph()
    copy.output(copy.graph_copy(graph.graph, {}))
    for node in copy.nodes:
        if 'device' in node.kwargs:
            node.kwargs = {**node.kwargs, 'device': CUDA}
    return GraphModule(graph, copy)


def _move(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device=CUDA)


@contextmanager
def _pretend_card() -> Iterator[None]:
    """Outside all modes, answer inductor's questions about the card."""
    properties, zero = staticmethod(lambda *_: PROPERTIES), staticmethod(lambda *_: 0)
    with ExitStack() as stack:
        stack.enter_context(_disable_current_modes())
        stack.enter_context(torch._C.DisableTorchFunction())
        stack.enter_context(torch.no_grad())
        for owner, name, value in (
            (torch.cuda, 'get_device_properties', lambda *_: PROPERTIES),
            (torch.cuda, 'get_device_capability', lambda *_: (PROPERTIES.major, PROPERTIES.minor)),
            (torch.cuda, 'current_device', lambda *_: 0),
            (torch.cuda, 'is_available', lambda *_: True),
            (CudaInterface, 'get_device_properties', properties),
            (CudaInterface, 'get_compute_capability', staticmethod(lambda *_: 90)),
            (CudaInterface.Worker, 'get_device_properties', properties),
            (CudaInterface.Worker, 'current_device', zero),
            (scheduler, 'has_triton', lambda *_: True),
        ):
            stack.enter_context(patch.object(owner, name, value))
        yield
