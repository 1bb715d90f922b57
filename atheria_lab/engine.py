"""Engine: one law stepping one lattice, without gradients."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor, nn

from atheria_lab import native
from atheria_lab._checks import integer, one_of
from atheria_lab._held import EngineState, Held, to_cpu
from atheria_lab._html import table
from atheria_lab._saves import prepare
from atheria_lab.hidden import ResetHidden
from atheria_lab.lattice import Norm, check_psi
from atheria_lab.laws.base import fingerprint
from atheria_lab.memory import format_size
from atheria_lab.noise import Noise
from atheria_lab.progress import Progress, reporting
from atheria_lab.step import LatticeState, Step

Backend = Literal["auto", "torch", "native"]

BACKENDS: tuple[str, ...] = get_args(Backend)

__all__ = ["BACKENDS", "Backend", "Engine", "EngineState"]


class Engine:
    """One law stepping one lattice; it owns its tensors and frees them on ``close()``.

    The two backends make the same trajectory up to rounding: one step differs by less than
    2e-6 (complex64) or 1e-14 (complex128) of the largest amplitude. (The norm "cell" magnifies
    the rounding of a cell that nearly vanishes before it, on both alike.) A chaotic law then
    lets the trajectories drift apart. Within one backend the result does not depend on the number
    of threads, nor (native) on how the steps are divided into calls.

    Args:
        law: takes float ``[B, 2 * d_state, H, W]`` and returns the same shape.
        psi: where it starts, complex ``[B, H, W, d_state]``; it is copied.
        gamma: the part of psi that decays in a step, 0 to 1. Unitary laws do not use it.
        norm: "lattice", "cell" or "none"; by default "lattice", and "none" for a unitary law.
        noise: applied after each step; it is the same whenever a step is made again.
        seed: of the noise.
        reset_every: when a recurrent law's hidden tensors start anew: before each step whose
            index is a positive multiple of it, or a :class:`~atheria_lab.hidden.ResetHidden`.
        backend: "torch"; "native", the compiled module (MLP, Conv and Brickwork on the CPU);
            or "auto", native where it can be.

    Raises:
        TypeError: psi or law is something else.
        ValueError: NaN in psi, sizes that do not fit, an unknown name, or ``backend="native"``
            for what the compiled module cannot do.

    Example:
        >>> with Engine(law, psi) as engine:
        ...     history = engine.step(1000, save_every=100)
    """

    def __init__(
        self,
        law: nn.Module,
        psi: Tensor,
        *,
        gamma: float = 0.01,
        norm: Norm | None = None,
        noise: Noise | None = None,
        seed: int = 0,
        reset_every: int | ResetHidden | None = None,
        backend: Backend = "auto",
    ) -> None:
        one_of("backend", backend, BACKENDS)
        step = Step(law, gamma=gamma, norm=norm, noise=noise, seed=seed, reset_every=reset_every)
        if isinstance(psi, Tensor):
            # As numbers in memory: a lazy conjugate has no view as real numbers.
            psi = psi.detach().resolve_conj().resolve_neg()
        check_psi(psi)
        reason = native.why_not(law, psi) if backend != "torch" else "torch was asked for"
        if backend == "native" and reason is not None:
            raise ValueError(f'backend: got "native", but {reason}. "auto" would take "torch".')
        self.backend: str = "torch" if reason is not None else "native"
        with torch.no_grad():
            own = psi.clone(memory_format=torch.contiguous_format)
            state = step.initial(own)
        self._law_name = type(law).__name__
        self._held = Held(step, state, self.backend == "native")
        self._finalizer = weakref.finalize(self, self._held.free)

    @property
    def law(self) -> nn.Module:
        """The law that it steps; a closed engine no longer holds it."""
        return self._open().law

    def settings(self) -> dict[str, Any]:
        """What it was made with, as JSON can hold it: law, gamma, norm, noise, seed, backend."""
        step = self._open()
        return {
            "law": self._law_name,
            "law_fingerprint": fingerprint(step.law),
            "gamma": step.gamma,
            "norm": step.norm,
            "noise": {"phase": step.noise.phase, "sign": step.noise.sign},
            "seed": step.seed,
            "reset_every": step.reset_every,
            "backend": self.backend,
        }

    @property
    def psi(self) -> Tensor:
        """The state, complex ``[B, H, W, d_state]``, without a copy.

        On the native backend it is one tensor for the whole life of the engine, which the next
        steps overwrite: clone it to keep it. On torch every step makes a new one.
        """
        return self._state().psi

    @property
    def hidden(self) -> tuple[Tensor, ...]:
        """The hidden tensors of a recurrent law; empty for any other."""
        return self._state().hidden

    @property
    def steps_done(self) -> int:
        """Steps since the start: also the index that the next step's noise is counted with."""
        return self._held.steps_done

    @property
    def closed(self) -> bool:
        """Whether its tensors are gone."""
        return self._held.state is None

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors that it owns, the hidden ones among them; 0 once closed."""
        if self._held.state is None:
            return 0
        spare = 0 if self._held.spare is None else self._held.spare.nbytes
        return self._held.state.psi.nbytes + self.hidden_nbytes + spare

    @property
    def hidden_nbytes(self) -> int:
        """Bytes of the hidden tensors of a recurrent law; 0 once closed."""
        return 0 if self.closed else sum(h.nbytes for h in self.hidden)

    def step(
        self,
        n: int = 1,
        *,
        save_every: int | None = None,
        out: Tensor | np.ndarray | None = None,
        progress: bool | Progress = False,
    ) -> Any:
        """Make n steps.

        Ctrl-C, or an exception from ``progress``, stops between two steps: ``psi`` is then the
        state after ``steps_done`` steps, and the engine goes on from there.

        Args:
            n: how many.
            save_every: save each such state of this call (the ``save_every``-th, twice that,
                ...); ``None`` saves none.
            out: where to, of psi's dtype, ``[n // save_every, B, H, W, d_state]``, a tensor or a
                numpy array; made if left out.
            progress: ``True`` shows a bar (it needs tqdm), a function is called with (steps
                done, n) some times a second.

        Returns:
            ``out`` where ``save_every`` is given, else ``None``.
        """
        n = integer("n", n)
        # No local variable holds a tensor of the state: a traceback would keep it after close().
        saves, result = prepare(self.psi, n, save_every, out, native=self._held.stepper is not None)
        with reporting(progress, n) as report, torch.no_grad():
            self._held.advance(n, save_every or 0, saves, report)
            if report is not None:
                report(n)
        return result

    def state(self, copy: Callable[[Tensor], Tensor] = to_cpu) -> EngineState:
        """A copy of all that it takes to go on from here, on the CPU.

        Args:
            copy: makes a copy of a tensor in another place.
        """
        state = self._state()
        return EngineState(
            psi=copy(state.psi.detach()),
            hidden=tuple(copy(h.detach()) for h in state.hidden),
            steps_done=self._held.steps_done,
            seed=self._open().seed,
            law=fingerprint(self.law),
        )

    def restore(self, state: EngineState) -> None:
        """Go on from a state that :meth:`state` gave: of this engine or of an equal one.

        Raises:
            ValueError: it belongs to another law, seed, lattice or precision.
        """
        for name, got, wanted in (
            ("law", state.law, fingerprint(self.law)),
            ("seed", state.seed, self._open().seed),
            ("psi's shape", tuple(state.psi.shape), tuple(self.psi.shape)),
            ("psi's dtype", state.psi.dtype, self.psi.dtype),
            ("hidden", len(state.hidden), len(self.hidden)),
        ):
            if got != wanted:
                raise ValueError(f"state: its {name} is {got}; this engine has {wanted}.")
        check_psi(state.psi, name="state.psi")
        steps_done = integer("state.steps_done", state.steps_done, least=0)
        with torch.no_grad():
            self.psi.copy_(state.psi)
            hidden = tuple(h.to(self.psi.device, copy=True) for h in state.hidden)
        self._held.state = LatticeState(self.psi, hidden)
        self._held.steps_done = steps_done

    def restart(self, psi: Tensor) -> None:
        """Begin an episode: from another psi, at step 0, in the memory that it has.

        The hidden tensors of a recurrent law start anew, unless ``reset_every`` is
        ``ResetHidden.never()``.

        Args:
            psi: of the same shape and precision; it is copied.

        Raises:
            ValueError: another shape or precision, or NaN in it.
        """
        check_psi(psi)
        if psi.shape != self.psi.shape or psi.dtype != self.psi.dtype:
            raise ValueError(
                f"psi: got {psi.dtype} {tuple(psi.shape)}; this engine takes {self.psi.dtype} "
                f"{tuple(self.psi.shape)}."
            )
        with torch.no_grad():
            self.psi.copy_(psi)
            if self._open().resets.between:
                self._held.state = self._open().initial(self.psi)
        self._held.steps_done = 0

    def close(self) -> None:
        """Free its tensors and let go of the law; closing again does nothing.

        What holds the engine itself (a variable, ``Out[]``, a traceback) then holds no bytes.
        """
        self._finalizer()

    def __enter__(self) -> Self:
        self._state()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        if self.closed:
            return f"Engine({self._law_name}, closed after {self._held.steps_done} steps)"
        shape = "x".join(map(str, self.psi.shape))
        dtype = str(self.psi.dtype).removeprefix("torch.")
        return (
            f"Engine({self._law_name}, psi {shape} {dtype} on {self.psi.device}, norm="
            f"{self._open().norm!r}, backend={self.backend!r}, {self.steps_done} steps done)"
        )

    def _repr_html_(self) -> str:
        rows = {"law": self._law_name, "steps done": f"{self._held.steps_done:,}"}
        if self.closed:
            return table("Engine", {**rows, "state": "closed"})
        kernels = f" ({native.isa()})" if self.backend == "native" else ""
        rows["psi"] = f"{tuple(self.psi.shape)} {self.psi.dtype} on {self.psi.device}"
        rows["norm"] = self._open().norm
        rows["backend"] = self.backend + kernels
        rows["memory"] = format_size(self.nbytes)
        if self.hidden:
            rows["of it hidden"] = f"{format_size(self.hidden_nbytes)}, {self._open().resets!r}"
        return table("Engine", rows)

    def _open(self) -> Step:
        self._state()
        assert self._held.step is not None
        return self._held.step

    def _state(self) -> LatticeState:
        if self._held.state is None:
            raise RuntimeError(
                "This engine is closed: its tensors are freed. Make a new Engine, from a "
                "snapshot or an initial psi."
            )
        return self._held.state
