"""CUDA graphs of the denoiser's passes: a pass is recorded once for each shape and then replayed as one launch.

On a fast GPU a pass of some two thousand small kernels waits for the processor that launches them. With Stable
Diffusion 1.5's shapes (8 rows of 64 x 64 latents, bf16, an H100) recorded passes took 0.52 to 0.55 of the time, by an
earlier form of this file (docs/decisions/0029). A replay runs the same kernels on the same memory: predictions and
gradients are those of the weights as they are now, which optimizer and `Adapter.load_tensors` change in place. Each
recording is compared with the pass that it stands for before it is used.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.func import functional_call

Pass = Callable[..., Tensor]

WARMUP = 2  # passes before the recording, in which libraries choose their kernels and take their workspaces
TOLERANCE = 0.02  # of a replay's norm: kernels may be chosen anew, which moves bf16's last places
DISTURBANCE = 0.02  # of the adapter's weights, while a recording is compared
AT_MOST = 8  # recordings; they share the memory of their passes, and each has its own inputs, output and gradients

log = logging.getLogger(__name__)


class Graphs:
    """Replays of a denoiser's passes; whatever is not recorded is computed as ever.

    A pass is recorded when its shapes come for the second time, so that odd ones cost nothing. Not recorded: what has
    an input that is trained (the encoding of a trained text encoder). All share one pool of memory, so nothing is
    replayed between a pass with gradient and its backward pass. Once a recording fails there is a warning, and no
    further one. Layers must not come or go afterwards.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        """Nothing is recorded yet.

        Args:
            module: whose weights the passes use; those that require a gradient are given it.
        """
        self._module = module
        self._failed = False
        self._seen: set[Any] = set()
        self._graphs: dict[Any, _Graph] = {}
        self._tape: _Tape | None = None
        self._pending: Callable[[], object] = _nothing

    @property
    def recorded(self) -> int:
        """How many passes are replayed."""
        return len(self._graphs)

    @property
    def free(self) -> bool:
        """Whether no backward pass is still to come."""
        return self._pending() is None

    def __call__(self, function: Pass, inputs: Sequence[Tensor], *constants: Any) -> Tensor:
        """function(*inputs), a tensor of its own.

        Args:
            function: computes on the inputs and the module's weights alone.
            inputs: tensors on the GPU.
            constants: what else the result depends on.
        """
        if not self.free or any(tensor.requires_grad for tensor in inputs):
            return function(*inputs)
        learning = torch.is_grad_enabled()
        shapes = (*constants, *((tensor.shape, tensor.dtype) for tensor in inputs))
        # A pass without gradient is the forward half of one with: the same kernels, and one recording for both.
        graph = self._graphs.get((True, *shapes)) or self._graphs.get((learning, *shapes))
        graph = graph or self._record((learning, *shapes), function, inputs, learning)
        if graph is None:
            return function(*inputs)
        if not learning:
            return graph.replay(inputs)
        token = _Token()
        self._pending = weakref.ref(token)
        output: Tensor = _Replay.apply(graph, token, inputs, *graph.weights)
        return output

    def _record(self, key: Any, function: Pass, inputs: Sequence[Tensor], learning: bool) -> _Graph | None:
        known = key in self._seen
        self._seen.add(key)
        if self._failed or not known or len(self._graphs) == AT_MOST:
            return None
        try:
            with torch.cuda.stream(torch.cuda.current_stream()):  # a recording that failed may leave another one
                self._tape = self._tape or _Tape()
                self._graphs[key] = _Graph(self._module, function, inputs, learning, self._tape)
        except RuntimeError as error:  # of memory, or of a layer that asks for what a recording cannot hold
            log.warning(
                "no more passes are recorded as CUDA graphs, they are launched kernel by kernel, for one failed: %s",
                error,
            )
            self._failed = True
        return self._graphs.get(key)


class Exchanged:
    """A pass with leaves of their own in place of the weights, on the same memory.

    The weights' nodes in autograd's graph belong to the stream of their first pass for as long as somebody holds on to
    what came of one, and must not be met while recording.

    Attributes:
        weights: that are given a gradient; empty for a pass without.
    """

    def __init__(self, module: torch.nn.Module, function: Pass, learning: bool) -> None:
        trained = {name: weight for name, weight in module.named_parameters() if weight.requires_grad and learning}
        self.weights = list(trained.values())
        self._within, self._function = _Within(module), function
        self._leaves = {f"inner.{name}": weight.detach().requires_grad_() for name, weight in trained.items()}

    def run(self, inputs: Sequence[Tensor]) -> Tensor:
        """function(*inputs)."""
        output: Tensor = functional_call(self._within, self._leaves, (self._function, *inputs))
        return output

    def derive(self, output: Tensor, incoming: Tensor) -> tuple[Tensor | None, ...]:
        """The weights' gradients, given the output's."""
        leaves = list(self._leaves.values())
        return torch.autograd.grad(output, leaves, incoming, allow_unused=True) if leaves else ()

    def whole(self, inputs: Sequence[Tensor]) -> list[Tensor | None]:
        """The output, and the weights' gradients for `_signs` of it."""
        output = self.run(inputs)
        return [output.detach(), *self.derive(output, _signs(output))]

    @contextmanager
    def disturbed(self) -> Iterator[None]:
        """With other weights, which come back bit for bit."""
        # By `data`, for a pass whose backward pass is still to come must not notice.
        kept = [leaf.data.clone() for leaf in self._leaves.values()]
        try:
            for leaf in self._leaves.values():
                leaf.data += DISTURBANCE * (1 - 2 * (torch.arange(leaf.numel(), device=leaf.device) % 2)).view(
                    leaf.shape
                )
            yield
        finally:
            for leaf, weight in zip(self._leaves.values(), kept, strict=True):
                leaf.data.copy_(weight)


class _Within(torch.nn.Module):
    """Lets a module's weights be exchanged while a function that uses it runs."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, function: Pass, *inputs: Tensor) -> Tensor:
        return function(*inputs)


class _Tape:
    """What recordings have in common: the stream that they are made on and the pool of their memory."""

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.pool = torch.cuda.graph_pool_handle()

    def recording(self, graph: torch.cuda.CUDAGraph) -> torch.cuda.graph:
        """Another thread, a reward that scores, may use the device meanwhile."""
        return torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local")


class _Graph:
    """One recording.

    Attributes:
        weights: that are given a gradient; empty for a pass without.
    """

    def __init__(
        self, module: torch.nn.Module, function: Pass, inputs: Sequence[Tensor], learning: bool, tape: _Tape
    ) -> None:
        """Record. Raises RuntimeError."""
        exchanged = Exchanged(module, function, learning)
        self.weights = exchanged.weights
        torch.cuda.empty_cache()  # the warm-up takes memory of its own, beside what was kept for other passes
        tape.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(tape.stream):
            for _ in range(WARMUP):
                incoming = _signs(exchanged.whole(inputs)[0])
        torch.cuda.current_stream().wait_stream(tape.stream)
        # Recorded on zeros, so that the comparison finds whatever would always be what it was in the recording.
        self._inputs = [torch.zeros_like(tensor) for tensor in inputs]
        self._incoming = torch.zeros_like(incoming)
        self._forward, self._backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with tape.recording(self._forward):
            output = exchanged.run(self._inputs)
        self._gradients: tuple[Tensor | None, ...] = ()
        if self.weights:
            with tape.recording(self._backward):
                self._gradients = exchanged.derive(output, self._incoming)
        self._output = output.detach()
        with exchanged.disturbed():  # a fresh adapter changes nothing and has half of its gradients at zero
            expected = exchanged.whole(inputs)
            found = [self.replay(inputs), *(self.replay_backward(incoming) if self.weights else ())]
        if not _alike(found, expected):
            raise RuntimeError("a replay gives something else than the pass does")

    def replay(self, inputs: Sequence[Tensor]) -> Tensor:
        """The forward pass; a copy of its output, for the next replay overwrites it."""
        for place, tensor in zip(self._inputs, inputs, strict=True):
            place.copy_(tensor)
        self._forward.replay()
        return self._output.clone()

    def replay_backward(self, incoming: Tensor) -> tuple[Tensor | None, ...]:
        """The weights' gradients; copies, for autograd keeps what it is given as a weight's `grad`."""
        self._incoming.copy_(incoming)
        self._backward.replay()
        return tuple(None if gradient is None else gradient.clone() for gradient in self._gradients)


def _signs(output: Any) -> Tensor:
    """A gradient whose sums stay small enough for fp16: two signs in turn, of norm 1."""
    signs = torch.ones(output.numel(), dtype=output.dtype, device=output.device)
    signs[::2] = -1
    scaled: Tensor = (signs / output.numel() ** 0.5).view(output.shape)
    return scaled


def _alike(found: Sequence[Tensor | None], expected: Sequence[Tensor | None]) -> bool:
    """Whether outputs agree, and gradients, all together: a single one may be all rounding."""
    if [tensor is None for tensor in found] != [tensor is None for tensor in expected]:
        return False
    for part in (slice(1), slice(1, None)):
        ours, theirs = (
            torch.cat([tensor.float().flatten() for tensor in side[part] if tensor is not None] or [torch.zeros(0)])
            for side in (found, expected)
        )
        finite = theirs.isfinite()
        if not torch.equal(ours.isfinite(), finite):
            return False
        if not bool((ours - theirs)[finite].norm() <= TOLERANCE * theirs[finite].norm()):
            return False
    return True


class _Token:
    """Lives as long as a backward pass may still come."""


def _nothing() -> None:
    return None


class _Replay(torch.autograd.Function):
    """A recorded pass as a node of autograd's graph."""

    @staticmethod
    def forward(ctx: Any, graph: _Graph, token: _Token, inputs: Sequence[Tensor], *weights: Tensor) -> Tensor:
        ctx.graph, ctx.token = graph, token
        return graph.replay(inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, incoming: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.token is None:
            raise RuntimeError("a recorded pass has one backward pass: its activations are gone after it")
        gradients = ctx.graph.replay_backward(incoming)
        ctx.token = None
        return (None, None, None, *gradients)
