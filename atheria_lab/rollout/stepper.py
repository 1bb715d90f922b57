"""One step of a rollout, made in the three ways that a plan needs.

``advance`` makes it without a graph, ``record`` with one, ``backprop`` goes back through what
was recorded; a step that can goes back by itself, ``vjp``. Each step's graph stands alone: it
starts at an entry that can be asked for its gradient, and so the contributions of the steps are
summed in the order of plain autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils._pytree import keystr, tree_flatten, tree_flatten_with_path, tree_unflatten

StepFunction = Callable[[Any, int], Any]
OnStep = Callable[[Any, int], None]
Leaves = list[Tensor]
Cotangents = list[Tensor | None]
Pullback = Callable[[Tensor], tuple[Tensor, list[Tensor]]]
T = TypeVar("T")


@dataclass
class Record:
    """The graph of one step.

    Attributes:
        entries: where the gradient with respect to each leaf of the input arrives.
        exits: where the gradient with respect to each leaf of the output starts.
    """

    entries: list[GradientEdge | None]
    exits: list[GradientEdge | None]


class Stepper:
    """A step function over the leaves of a state.

    Args:
        step: ``step(state, i)`` returns the next state, the same pytree.
        state: the initial state; its structure, shapes, dtypes and devices must stay.

    Attributes:
        on_step: called with each new state, without its graph, and the number of steps to it.

    Raises:
        TypeError: ``step`` cannot be called, or a leaf of ``state`` is no tensor.
        ValueError: ``state`` holds no tensor, or NaN or infinity.
    """

    def __init__(self, step: StepFunction, state: Any) -> None:
        if not callable(step):
            raise TypeError(f"step: got {type(step).__name__}; it takes a function (state, i).")
        self.step = step
        self.on_step: OnStep | None = None
        paths, self._spec = tree_flatten_with_path(state)
        self.names = [f"state{keystr(path)}" for path, _ in paths]
        self.leaves: Leaves = [
            _check_leaf(name, leaf) for name, (_, leaf) in zip(self.names, paths, strict=True)
        ]
        if not self.leaves:
            raise ValueError("state: it holds no tensor; it takes a pytree of tensors.")
        self._kinds = [(leaf.shape, leaf.dtype, leaf.device) for leaf in self.leaves]
        self.differentiable = [_is_differentiable(leaf) for leaf in self.leaves]
        self._parameters: dict[int, int] = {}
        self._glances: list[str] = []
        self._settings: object = None
        self._anchor = torch.empty(0, requires_grad=True)
        device = self.leaves[0].device.type
        self._autocast: dict[str, Any] = {
            "device_type": device,
            "dtype": torch.get_autocast_dtype(device),
            "enabled": torch.is_autocast_enabled(device),
            # A weight's cast that is cached in one step's graph would tie the steps together.
            "cache_enabled": False,
        }

    def check_same(self, **facts: object) -> None:
        """Where several ranks make the steps together: refuse what differs between them."""
        check_same = getattr(self.step, "check_same", None)
        if check_same is not None:
            check_same(**facts)

    def agreed(self, work: Callable[[], T]) -> T:
        """The result of ``work``; where several ranks make the steps together, the first one's.

        An error on one of them is then one on all.
        """
        together = getattr(self.step, "together", None)
        return work() if together is None else together(work)[0]

    def same_autocast(self) -> torch.autocast:
        """The autocast that was in force when this stepper was made, for a recomputation."""
        return torch.autocast(**self._autocast)

    def unflatten(self, leaves: Sequence[Tensor]) -> Any:
        """The state of these leaves."""
        return tree_unflatten(leaves, self._spec)

    def plain(self, leaves: Leaves, i: int) -> Leaves:
        """Step i under whatever grad mode is on, nothing detached."""
        versions = [_version(leaf) for leaf in leaves]
        state = self.step(self.unflatten(leaves), i)
        for name, leaf, version in zip(self.names, leaves, versions, strict=True):
            if _version(leaf) != version:
                raise RuntimeError(_in_place(name, i))
        after = self._flatten(state, i)
        self._tell(after, i + 1)
        return after

    def advance(self, leaves: Leaves, i: int) -> Leaves:
        """Step i without a graph."""
        with torch.no_grad():
            return [leaf.detach() for leaf in self.plain(leaves, i)]

    @property
    def invertible(self) -> bool:
        """Whether the step has an inverse."""
        return callable(getattr(self.step, "inverse", None))

    def inverse(self, leaves: Leaves, i: int) -> Leaves:
        """The leaves before step i, without a graph."""
        with torch.no_grad():
            state = self.step.inverse(self.unflatten(leaves), i)  # type: ignore[attr-defined]
            before = [leaf.detach() for leaf in self._flatten(state, i)]
        self._tell(before, i)
        return before

    def record(self, leaves: Leaves, i: int) -> tuple[Record, Leaves]:
        """Step i with its graph, and the leaves of the next state without it."""
        with torch.enable_grad():
            inputs = list(leaves)
            sites = [site for site, differs in enumerate(self.differentiable) if differs]
            entered = _Entry.apply(self._anchor, *(leaves[site] for site in sites))
            entries: list[GradientEdge | None] = [None] * len(leaves)
            for site, leaf in zip(sites, entered, strict=True):
                inputs[site] = leaf
                entries[site] = get_gradient_edge(leaf)
            try:
                outputs = self.plain(inputs, i)
            except RuntimeError as error:
                if "modified inplace" in str(error) or "in-place" in str(error):
                    raise RuntimeError(_in_place("state", i)) from error
                raise
            exits = [get_gradient_edge(leaf) if leaf.requires_grad else None for leaf in outputs]
        return Record(entries, exits), [leaf.detach() for leaf in outputs]

    def backprop(
        self,
        record: Record,
        cotangents: Cotangents,
        arriving: Cotangents | None,
        parameters: Sequence[GradientEdge],
    ) -> tuple[Cotangents, Cotangents]:
        """Back through one recorded step, which is used up.

        Args:
            record: of the step.
            cotangents: the gradient with respect to each leaf of its output; ``None`` is zero.
            arriving: the gradient with respect to each leaf of its input that does not come
                through the step (the loss looked at that state). It enters the sum first, as
                in plain autograd, so that the sum has the same bits.
            parameters: where the gradients with respect to the parameters arrive.

        Returns:
            The gradients with respect to the leaves of its input, and to the parameters.
        """
        arriving = arriving or [None] * len(record.entries)
        given = [
            (edge, cotangent)
            for edges, values in ((record.entries, arriving), (record.exits, cotangents))
            for edge, cotangent in zip(edges, values, strict=True)
            if edge is not None and cotangent is not None
        ]
        through = [
            edge is not None and cotangent is not None
            for edge, cotangent in zip(record.exits, cotangents, strict=True)
        ]
        if not any(through):
            return list(arriving), [None] * len(parameters)
        sites = [site for site, edge in enumerate(record.entries) if edge is not None]
        wanted = [*(record.entries[site] for site in sites), *parameters]
        roots, values = zip(*given, strict=True)
        grads = torch.autograd.grad(roots, wanted, values, allow_unused=True)  # type: ignore[arg-type]
        total: Cotangents = [None] * len(record.entries)
        for site, grad in zip(sites, grads, strict=False):
            total[site] = grad
        return total, list(grads[len(sites) :])

    def remember(self, parameters: Sequence[Tensor]) -> None:
        """The parameters that the forward pass knows, as they are now."""
        self._parameters = {id(leaf): _version(leaf) for leaf in parameters}
        self._glances = [_glance(leaf) for leaf in parameters]
        self._settings = getattr(self.step, "settings", None)

    def check_numbers(self, parameters: Sequence[Tensor]) -> None:
        """Refuse a backward pass through parameters that hold other numbers than they did.

        A fused optimizer, or a change through ``.data``, leaves a tensor's version as it was.
        """
        for leaf, before in zip(parameters, self._glances, strict=True):
            if _glance(leaf) != before:
                raise RuntimeError(_changed(leaf))

    @property
    def has_vjp(self) -> bool:
        """Whether the step can go back by itself, without a graph.

        Such a step has ``vjp(psi, i)``, which returns its parameters, and a function from the
        gradient of the next state to that of ``psi`` and those of the parameters. Its class
        defines it beside ``__call__``: a subclass with a call of its own goes another way back.
        """
        places = [
            next((place for place in type(self.step).__mro__ if name in vars(place)), None)
            for name in ("vjp", "__call__")
        ]
        return len(self.names) == 1 and places[0] is not None and places[0] is places[1]

    def vjp(self, leaves: Leaves, i: int) -> tuple[Sequence[Tensor], Pullback]:
        """Ready to go back through step i: its parameters, and the way back."""
        if getattr(self.step, "settings", None) != self._settings:
            raise RuntimeError(
                f"step: its settings were changed between the forward and the backward pass, from "
                f"{self._settings} to {self.step.settings}, so the steps cannot be made again as "  # type: ignore[attr-defined]
                "they were. Call backward() first."
            )
        with torch.no_grad():
            parameters, back = self.step.vjp(leaves[0], i)  # type: ignore[attr-defined]
        self.check_leaves(parameters, i)
        return parameters, back

    def check_parameters(self, record: Record, i: int) -> None:
        """Refuse a recomputed step whose parameters are not those of the forward pass."""
        self.check_leaves(graph_leaves(record), i)

    def check_leaves(self, leaves: Iterable[Tensor], i: int) -> None:
        """The same for the parameters that step i reads."""
        for leaf in leaves:
            if id(leaf) not in self._parameters:
                raise RuntimeError(
                    f"step: step {i} reads a parameter of shape {list(leaf.shape)} that was not "
                    "found when the rollout started, so its gradient would be lost. Pass it: "
                    "rollout(..., parameters=law.parameters())."
                )
            if _version(leaf) != self._parameters[id(leaf)]:
                raise RuntimeError(_changed(leaf))

    def _tell(self, leaves: Leaves, done: int) -> None:
        if self.on_step is not None:
            with torch.no_grad():
                self.on_step(self.unflatten([leaf.detach() for leaf in leaves]), done)

    def _flatten(self, state: Any, i: int) -> Leaves:
        leaves, spec = tree_flatten(state)
        if spec != self._spec:
            raise TypeError(
                f"step: step {i} returned another structure than it was given: {spec} instead of "
                f"{self._spec}. It must return the same pytree of tensors."
            )
        for name, leaf, kind in zip(self.names, leaves, self._kinds, strict=True):
            if not isinstance(leaf, Tensor):
                raise TypeError(
                    f"step: step {i} returned {type(leaf).__name__} at {name}; it takes a tensor."
                )
            if (leaf.shape, leaf.dtype, leaf.device) != kind:
                raise TypeError(
                    f"step: step {i} changed {name} from {_describe(*kind)} to "
                    f"{_describe(leaf.shape, leaf.dtype, leaf.device)}; a state must keep its "
                    "shapes, dtypes and devices."
                )
        return leaves


class _Entry(torch.autograd.Function):
    """The state as a step sees it: with a place where its gradient can be asked for.

    A leaf that requires grad would do that too, but its graph would keep the state alive.
    """

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
        return tuple(leaf.detach() for leaf in leaves)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError("a step's gradient went past its entry")  # autograd stops at the edge


def graph_leaves(record: Record) -> list[Tensor]:
    """The leaf tensors (parameters) that a recorded step's graph reaches.

    Raises:
        RuntimeError: the step reads a tensor that was itself computed, before the step.
    """
    entry = next((edge.node for edge in record.entries if edge is not None), None)
    born = entry._sequence_nr() if entry is not None else 0
    found: list[Tensor] = []
    todo = [edge.node for edge in record.exits if edge is not None]
    seen = set(todo)
    while todo:
        node = todo.pop()
        variable = getattr(node, "variable", None)
        if variable is not None:
            found.append(variable)
            continue
        if node is entry:
            continue
        if node._sequence_nr() < born:
            raise RuntimeError(
                "step: it reads a tensor that was computed before the step "
                f"({node.name()}), so back-propagation would have to leave the rollout in the "
                "middle. Compute it inside the step, or carry it in the state: "
                "state = (psi, tensor), returned unchanged."
            )
        for after, _ in node.next_functions:
            if after is not None and after not in seen:
                seen.add(after)
                todo.append(after)
    return found


def _check_leaf(name: str, leaf: object) -> Tensor:
    if not isinstance(leaf, Tensor):
        raise TypeError(f"{name}: got {type(leaf).__name__}; every leaf of a state is a tensor.")
    if leaf.layout is not torch.strided or leaf.is_nested:
        kind = "nested" if leaf.is_nested else leaf.layout
        raise TypeError(f"{name}: got a {kind} tensor; it takes a dense one: tensor.to_dense().")
    if isinstance(leaf, FakeTensor):
        return leaf  # a shape without numbers, for a plan
    if _is_differentiable(leaf) and not bool(torch.isfinite(leaf.detach()).all()):
        raise ValueError(f"{name}: it holds NaN or infinity; a rollout starts from finite numbers.")
    return leaf


def _is_differentiable(leaf: Tensor) -> bool:
    return leaf.is_floating_point() or leaf.is_complex()


def _version(leaf: Tensor) -> int:
    return 0 if leaf.is_inference() else leaf._version


def _describe(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> str:
    return f"{list(shape)} {dtype} on {device}"


def _glance(leaf: Tensor) -> str:
    """About 64 of a tensor's numbers, as they read: NaN is then equal to itself."""
    flat = leaf.detach().reshape(-1)
    return str(flat[:: max(1, flat.numel() // 64)].tolist())


def _changed(leaf: Tensor) -> str:
    return (
        f"step: a parameter of shape {list(leaf.shape)} was changed in place between the forward "
        "and the backward pass, so the steps cannot be made again as they were. Call backward() "
        "before the optimizer's step()."
    )


def _in_place(name: str, i: int) -> str:
    return (
        f"step: step {i} changed {name} in place. A plan keeps states to recompute from, so a "
        "step must return new tensors (psi = psi * 2, not psi *= 2)."
    )
