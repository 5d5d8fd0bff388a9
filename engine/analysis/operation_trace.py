"""Operation trace: the modules and operations that one image passes in a model, in order, with what each costs.

Modules alone do not show what a model costs: attention, a resizing or a product of weights is a function call, and a
convolution may run on weights that were computed a line above. So three listeners work at once: hooks on the modules
(which module is running), a function mode (attention and linear products, as they are written) and a dispatch mode
(what torch executes). Each cost goes to the step that causes it.

Nothing is computed: a copy of the model runs on the meta device, whose tensors have shapes and no numbers.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Cost = tuple[str, int, str]  # kind (see COSTS), how much of it, in words

# --- one step ---------------------------------------------------------------------------------------------------------


@dataclass
class Step:
    """A module, or a function that a module calls. `costs`: {kind: multiply-adds or elements}, without `steps`."""

    name: str
    what: str = ""
    shape: tuple[int, ...] | None = None  # of the output, where it is one tensor
    module: nn.Module | None = None
    used: list[str] = field(default_factory=list)  # names of the parameters that first meet the image here
    parameters: int = 0  # of the module; for a function: those in `used`
    costs: Counter = field(default_factory=Counter)
    steps: list[Step] = field(default_factory=list)

    def total(self) -> Counter:
        """Costs of this step and of all steps in it."""
        return sum((s.total() for s in self.steps), Counter(self.costs))

    def flat(self, depth: int = 0) -> Iterator[tuple[int, Step]]:
        """(depth, step) in execution order; a step comes before the steps in it."""
        yield depth, self
        for s in self.steps:
            yield from s.flat(depth + 1)


# --- what each operation costs ----------------------------------------------------------------------------------------


def _convolution(args: tuple, out: Tensor) -> Cost:
    x, w, _, stride, _, dilation, transposed, _, groups = args[:9]
    steps = x.shape[2:] if transposed else out.shape[2:]  # a transposed one runs once per pixel of its input
    text = f"{'transposed conv' if transposed else 'conv'} {w.shape[2]}x{w.shape[3]}"
    text += f" /{stride[0]}" if stride[0] > 1 and not transposed else ""
    text += f", {x.shape[1]} -> {out.shape[1]}"
    text += f", dilation {dilation[0]}" if dilation[0] > 1 else ""
    text += ", depthwise" if groups == x.shape[1] > 1 else f", {groups} groups" if groups > 1 else ""
    return "convolution", w.numel() * x.shape[0] * math.prod(steps), text


def _product(a: int, b: int) -> Callable:
    """A matrix product of arguments a and b: each number of the first meets one row of the second."""

    def cost(args: tuple, out: Tensor) -> Cost:
        left, right = args[a], args[b]
        columns = right.shape[-1] if right.ndim > 1 else 1
        sizes = [" x ".join(map(str, t.shape)) for t in (left, right)]
        return "matrix product", left.numel() * columns, f"product of {sizes[0]} and {sizes[1]}"

    return cost


def _resize(kind: str) -> Callable:
    return lambda args, out: (kind, out.numel(), f"{kind} to {out.shape[-2]}x{out.shape[-1]}")


def _norm(kind: str, axis: int) -> Callable:
    return lambda args, out: (kind, args[0].numel(), f"{kind} {args[0].shape[axis]}")


def _mean(args: tuple, out: Tensor) -> Cost | None:
    over_the_map = args[0].ndim == 4 and sorted(d % 4 for d in args[1]) == [2, 3]
    return ("pooling", args[0].numel(), "mean over the map") if over_the_map else None


def _pool_to(args: tuple, out: Tensor) -> Cost:
    return "pooling", args[0].numel(), f"mean in {out.shape[-2]}x{out.shape[-1]} bins"


def _max_pool(args: tuple, out: Tensor) -> Cost:
    return "free", 0, f"max pooling {args[1][0]}x{args[1][1]} /{(args[2] or args[1])[0]}"


aten, BATCHNORM = torch.ops.aten, _norm("BatchNorm", 1)
# every other operation works elementwise or moves elements
COSTS: dict[object, Callable[[tuple, Tensor], Cost | None]] = {
    aten.convolution: _convolution,
    aten.mm: _product(0, 1),
    aten.addmm: _product(1, 2),
    aten.mv: _product(0, 1),
    aten.addmv: _product(1, 2),
    aten.bmm: _product(0, 1),
    aten.baddbmm: _product(1, 2),
    aten.upsample_bilinear2d: _resize("bilinear"),
    aten.upsample_nearest2d: _resize("nearest"),
    aten.native_layer_norm: _norm("LayerNorm", -1),
    aten.native_batch_norm: BATCHNORM,
    aten._native_batch_norm_legit: BATCHNORM,
    aten._native_batch_norm_legit_no_training: BATCHNORM,
    aten.mean: _mean,
    aten._adaptive_avg_pool2d: _pool_to,
    aten.max_pool2d_with_indices: _max_pool,
    aten.cat: lambda args, out: ("free", 0, f"concatenate {len(args[0])}"),
}


def _attention_text(q: Tensor, k: Tensor) -> str:
    groups = "" if q.shape[0] == 1 else f"{q.shape[0]} x "
    return f"attention {groups}{q.shape[1]} heads, {q.shape[2]} x {k.shape[2]} tokens"


# --- the listeners ----------------------------------------------------------------------------------------------------


class Trace:
    """The steps of one forward pass. The last step on `stack` is running."""

    def __init__(self, model: nn.Module) -> None:
        self.root = Step("", type(model).__name__, module=model)
        self.stack = [self.root]
        self.seen: set[str] = set()
        # memory -> the parameters it was computed from, for all tensors that do not depend on the image. Views share
        # their memory and need no entry. `alive` keeps tensors, so that no other tensor gets their memory.
        self.constant: dict[int, frozenset[str]] = {}
        self.alive: list[Tensor] = []
        self.sizes = {name: p.numel() for name, p in model.named_parameters()}
        self.order = {name: i for i, name in enumerate(self.sizes)}
        for name, p in model.named_parameters():
            self.mark(p, frozenset([name]))
        for buffer in model.buffers():
            self.mark(buffer, frozenset())
        for name, module in model.named_modules():
            if name:
                module.register_forward_pre_hook(lambda m, args, name=name: self.enter(name, m))
                module.register_forward_hook(lambda m, args, out: self.leave(out))

    def mark(self, tensor: Tensor, names: frozenset[str]) -> None:
        self.constant[memory_of(tensor)] = names
        self.alive.append(tensor)

    def enter(self, name: str, module: nn.Module | None = None, what: str = "") -> None:
        step = Step(name, what or type(module).__name__, module=module)
        if module is not None:
            step.parameters = sum(p.numel() for p in module.parameters())
        self.stack[-1].steps.append(step)
        self.stack.append(step)

    def leave(self, out: object) -> None:
        step = self.stack.pop()
        step.shape = tuple(out.shape) if isinstance(out, Tensor) else None

    def book(self, func: object, args: tuple, kwargs: dict, out: object) -> None:
        """Book one executed operation: its parameters and its cost go to the running step."""
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        outputs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        known = [self.constant.get(memory_of(t)) for t in inputs]
        names = frozenset().union(*[k for k in known if k])
        of_weights_only = None not in known
        for t in outputs:
            if of_weights_only:
                self.mark(t, names)
            else:
                self.constant.pop(memory_of(t), None)
        cost = COSTS.get(func.overloadpacket, lambda *_: None)(args, outputs[0]) if outputs else None
        step = self.stack[-1]
        if cost is not None:
            kind, amount, text = cost
            if step.module is not None or step is self.root:  # no function has opened a step
                step.steps.append(step := Step(kind, shape=tuple(outputs[0].shape)))
            step.what = step.what or (f"weights: {text}" if of_weights_only else text)
            step.costs[step.name if step.name == "attention" else kind] += amount
        if not of_weights_only:
            new = sorted(names - self.seen, key=self.order.get)
            self.seen.update(new)
            step.used += new
            if step.module is None:
                step.parameters += sum(self.sizes[n] for n in new)


class _Functions(TorchFunctionMode):
    """Attention and linear products as they are written; torch splits them and flattens tokens to rows."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self.trace.enter("attention", what=_attention_text(*args[:2]))
        elif func is F.linear:
            self.trace.enter("linear", what=f"linear {args[1].shape[1]} -> {args[1].shape[0]}")
        else:
            return func(*args, **kwargs)
        out = func(*args, **kwargs)
        self.trace.leave(out)
        return out


class _Operations(TorchDispatchMode):
    """Every operation that torch executes."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.trace.book(func, args, kwargs or {}, out)
        return out


def memory_of(tensor: Tensor) -> int:
    """A number for the memory of a tensor, which views share."""
    return tensor.untyped_storage()._cdata


def shadow(model: nn.Module) -> nn.Module:
    """A copy of the model on the meta device, made without copying its parameters."""
    tensors = [*model.parameters(), *model.buffers()]
    memo = {id(t): nn.Parameter(t.to("meta")) if isinstance(t, nn.Parameter) else t.to("meta") for t in tensors}
    return copy.deepcopy(model, memo)


@contextmanager
def as_printed(model: nn.Module) -> Iterator[None]:
    """The formulas as the papers print them, where a module computes something cheaper: modules with a `textbook`
    switch, and BatchNorm apart from its convolution (as in training mode, see models/inference/blocks.py)."""
    with ExitStack() as stack:
        for m in model.modules():
            name = "textbook" if hasattr(m, "textbook") else "training" if isinstance(m, nn.BatchNorm2d) else None
            if name:
                stack.callback(setattr, m, name, getattr(m, name))
                setattr(m, name, True)
        yield


def trace(model: nn.Module, size: tuple[int, int], published: bool = False) -> Step:
    """Trace one image (3, H, W) through the model in eval mode; returns the root step.

    published: by the formulas of the papers (as_printed). The model does not change. Raises: ValueError for a size that
    the model does not accept.
    """
    model = shadow(model).eval()
    steps = Trace(model)
    steps.root.parameters = sum(p.numel() for p in model.parameters())
    images = torch.empty(1, 3, *size, device="meta")
    with torch.no_grad(), ExitStack() as stack:
        if published:
            stack.enter_context(as_printed(model))
        stack.enter_context(_Operations(steps))
        stack.enter_context(_Functions(steps))
        model(images)
    return steps.root
