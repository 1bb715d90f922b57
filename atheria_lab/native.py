"""The one door to the compiled module ``atheria_lab._native``.

It knows three laws: MLP, Conv and Brickwork, exactly as they are defined here. Their steps are
fused: a tile of cells goes through all layers, the update and the noise before the next tile is
read. Anything else runs on PyTorch. That includes the U-Nets: half of their time (48 % measured,
``UNet(8, 16, 2)`` on 256x256) is PyTorch's own 3x3 convolutions over many channels, so that a
fused version could at the very best be twice as fast, and their coarse levels need the finer
ones whole.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

import atheria_lab._native as _native
from atheria_lab.lattice import Norm
from atheria_lab.laws import MLP, Brickwork, Conv
from atheria_lab.laws.unitaries import KeptUnitaries
from atheria_lab.noise import Noise


def _lend_threads() -> None:
    """Let single steps run on PyTorch's own threads, where it has libgomp's.

    After each of its operators those wait awake for some milliseconds, and would take the cores
    from threads of our own. (A dynamic library finds what its dependencies define.)
    """
    library = ctypes.CDLL(torch._C.__file__)
    region = getattr(library, "GOMP_parallel", None)
    if region is not None:
        _native.lend_threads(ctypes.cast(region, ctypes.c_void_p).value)


_lend_threads()
_MOST_THREADS = 1024
_LAYERS = {MLP: nn.Linear, Conv: nn.Conv2d}
# What an instance may carry to be no longer the law that its class says.
_OVERRIDES = ("forward", "evolve", "unitaries", "__call__")


def isa() -> str:
    """The instruction set that the kernels use: "baseline", "AVX2+FMA" or "AVX-512"."""
    name: str = _native.isa()
    return name


def uniform(cells: int, d_state: int, *, seed: int, step: int, stream: int) -> np.ndarray:
    """The numbers of :func:`atheria_lab.noise.uniform`, float64 ``[cells, d_state]``."""
    numbers: np.ndarray = _native.uniform(cells, d_state, seed, step, stream)
    return numbers


def why_not(law: nn.Module, psi: Tensor) -> str | None:
    """Why the compiled module cannot step this law on this psi, in words; ``None`` if it can."""
    if psi.device.type != "cpu":
        return f"psi is on {psi.device}; the kernels run on the CPU"
    return unusual(law, psi)


def unusual(law: nn.Module, psi: Tensor) -> str | None:
    """What a law has that no fused step of its class knows of, in words; ``None`` if nothing."""
    name = type(law).__name__
    if type(law) not in (MLP, Conv, Brickwork):
        return f"{name} has no fused kernel; MLP, Conv and Brickwork have one"
    if _has_any_global_hook():
        return "hooks on all modules are set, which a fused step would not call"
    for path, module in law.named_modules():
        place = path or name
        if module._forward_hooks or module._forward_pre_hooks:
            return f"{place} has forward hooks, which a fused step would not call"
        if any(override in vars(module) for override in _OVERRIDES):
            return f"{place} has a method of its own, which a fused step would not call"
    reason = _unusual_layers(law)
    if reason is not None:
        return reason
    wanted = torch.float32 if psi.dtype == torch.complex64 else torch.float64
    for path, parameter in law.named_parameters():
        if parameter.device != psi.device:
            return f"{path} is on {parameter.device} and psi on {psi.device}"
        if parameter.dtype != wanted and not isinstance(law, Brickwork):
            return (
                f"{path} is {parameter.dtype} and psi is {psi.dtype}; both must have one precision"
            )
    if isinstance(law, Brickwork) and (psi.shape[1] % 2 or psi.shape[2] % 2):
        return f"the lattice has {psi.shape[1]}x{psi.shape[2]} cells; Brickwork takes even sides"
    return None


class Stepper:
    """A law's fused step, ready to run; it reads the law's weights anew at every call.

    Args:
        law: an MLP, Conv or Brickwork; :func:`why_not` must have nothing against it.
    """

    def __init__(self, law: nn.Module) -> None:
        self.law = law
        self._unitaries = KeptUnitaries(law) if isinstance(law, Brickwork) else None

    def run(
        self,
        psi: Tensor,
        spare: Tensor,
        *,
        steps: int,
        first_step: int = 0,
        gamma: float = 0.01,
        norm: Norm = "lattice",
        noise: Noise | None = None,
        seed: int = 0,
        save_every: int = 0,
        saves: Tensor | None = None,
        threads: int | None = None,
        isa: str | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> tuple[int, BaseException | None]:
        """Step psi in place.

        Args:
            psi: contiguous, complex64 or complex128, ``[B, H, W, d_state]``, on the CPU.
            spare: a second buffer of the same shape; what is in it is lost.
            steps: how many.
            first_step: the index of the first, which the noise counts from.
            gamma: the part of psi that decays in a step.
            norm: "lattice", "cell" or "none".
            noise: applied after each step.
            seed: of the noise.
            save_every: write each such state to ``saves``; 0 saves none.
            saves: contiguous ``[steps // save_every, B, H, W, d_state]``, of psi's dtype.
            threads: ``torch.get_num_threads()`` by default. The result does not depend on it.
            isa: an instruction set by name, see :func:`isa`; by default the best there is.
            progress: called some times a second with the number of steps done.

        Returns:
            The number of steps done, and what interrupted them (raised by a signal handler,
            as on Ctrl-C, or by ``progress``); psi is the state after those steps.

        Raises:
            ValueError: :func:`why_not` has something against it, or a buffer does not fit.
        """
        reason = why_not(self.law, psi)
        if reason is not None:
            raise ValueError(f"law: {reason}.")
        noise = noise or Noise()
        done, error = _native.step(
            law=type(self.law).__name__,
            weights=self._weights(psi.dtype),
            activation=getattr(self.law, "activation", "silu"),
            psi=psi.numpy(),
            spare=spare.numpy(),
            saves=None if saves is None else saves.numpy(),
            gamma=gamma,
            norm=norm,
            phase=noise.phase,
            sign=noise.sign,
            seed=seed & 0xFFFFFFFFFFFFFFFF,
            first_step=first_step,
            steps=steps,
            save_every=save_every,
            threads=min(threads or torch.get_num_threads(), _MOST_THREADS),
            isa=isa,
            progress=progress,
        )
        del self, psi, spare  # what led to error may be kept with it, this frame too
        return done, error

    def _weights(self, dtype: torch.dtype) -> list[np.ndarray]:
        law: Any = self.law
        if not isinstance(law, Brickwork):
            layers = (law.inner.weight, law.inner.bias, law.outer.weight, law.outer.bias)
            return _arrays(layers)
        assert self._unitaries is not None
        return [self._unitaries(dtype).numpy()]


class StepOptions(NamedTuple):
    """What one step of a law takes beside psi: see :class:`~atheria_lab.Step`."""

    gamma: float
    norm: str
    phase: float
    sign: float
    seed: int
    step: int

    def arguments(self) -> dict[str, Any]:
        """As the module takes them."""
        return {
            **self._asdict(),
            "seed": self.seed % 2**64,
            "threads": min(torch.get_num_threads(), _MOST_THREADS),
            "isa": None,
        }


def step_once(
    law: str, psi: Tensor, weights: Sequence[Tensor], activation: str, options: StepOptions
) -> tuple[Tensor, Tensor]:
    """The state after a law's step, and what the norm "lattice" multiplied each lattice by.

    Args:
        law: "MLP", "Conv" or "Brickwork".
        psi: contiguous, complex ``[B, H, W, d_state]``.
        weights: of MLP and Conv the inner and outer layers' weights and biases by turns, of
            psi's precision, as the law keeps them; of Brickwork its two unitaries, complex
            ``[2, 4 * d_state, 4 * d_state]``.
        activation: "silu", "relu", "gelu" or "tanh"; Brickwork has none.
        options: of the step.

    Returns:
        psi's shape; and ``[B]``, ones for any other norm.
    """
    next_psi = torch.empty_like(psi)
    scales = psi.new_empty(psi.shape[:1], dtype=psi.dtype.to_real())
    _native.step_once(
        law=law, weights=_arrays(weights), activation=activation, psi=_array(psi),
        next=next_psi.numpy(), scales=scales.numpy(), **options.arguments(),
    )  # fmt: skip
    return next_psi, scales


def vjp(
    law: str,
    gradient: Tensor,
    psi: Tensor,
    next_psi: Tensor,
    scales: Tensor,
    weights: Sequence[Tensor],
    activation: str,
    options: StepOptions,
    of_psi: bool,
    of_weights: bool,
) -> list[Tensor]:
    """The gradients of a law's step: of psi, and of each of its weights.

    Args:
        law: as for :func:`step_once`.
        gradient: of the next state, contiguous, of psi's shape.
        psi: what :func:`step_once` took.
        next_psi: what it returned; not read unless the norm is "lattice".
        scales: what it returned, too.
        weights: what it took.
        activation: likewise.
        options: likewise.
        of_psi: whether psi's gradient is asked for; an empty tensor if not. Of a Brickwork it is
            the inverse step of ``gradient``.
        of_weights: whether those of the weights are.
    """
    psi_gradient = torch.empty_like(psi) if of_psi else psi.new_empty(0)
    of_each = [
        torch.empty_like(one, memory_format=torch.contiguous_format)
        if of_weights
        else one.new_empty(0)
        for one in weights
    ]
    _native.vjp(
        law=law, weights=_arrays(weights), activation=activation, psi=_array(psi),
        next=_array(next_psi), scales=_array(scales), gradient=_array(gradient),
        psi_gradient=psi_gradient.numpy() if of_psi else None,
        weight_gradients=[one.numpy() for one in of_each] if of_weights else [],
        **options.arguments(),
    )  # fmt: skip
    return [psi_gradient, *of_each]


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


def _arrays(tensors: Sequence[Tensor]) -> list[np.ndarray]:
    return [_array(one) for one in tensors]


def _unusual_layers(law: nn.Module) -> str | None:
    """Why the layers are not those that the class builds (a user may have replaced one)."""
    if isinstance(law, Brickwork):
        size = 4 * law.d_state
        if law.generators.shape != (2, 2, size, size):
            return f"generators has shape {tuple(law.generators.shape)}"
        return None
    assert isinstance(law, MLP | Conv)
    kind = _LAYERS[type(law)]
    for name, layer in (("inner", law.inner), ("outer", law.outer)):
        if type(layer) is not kind:
            return f"{name} is a {type(layer).__name__} instead of a {kind.__name__}"
        if layer.bias is None:
            return f"{name} has no bias"
    if isinstance(law, Conv):
        usual = (3, 3), (1, 1), (1, 1), (1, 1), 1, "circular"
        inner = law.inner
        found = (
            inner.kernel_size,
            inner.stride,
            inner.padding,
            inner.dilation,
            inner.groups,
            inner.padding_mode,
        )
        outer = law.outer
        if found != usual or (outer.kernel_size, outer.stride, outer.groups) != ((1, 1), (1, 1), 1):
            return "its convolutions are not those that Conv builds"
    return None
