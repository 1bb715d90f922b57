"""Engine: one law stepping one lattice, without gradients."""

from __future__ import annotations

import html
import time
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, get_args

import numpy as np
import torch
from torch import Tensor, nn

from atheria_lab import native
from atheria_lab._checks import integer
from atheria_lab.lattice import Norm, check_psi
from atheria_lab.laws.base import fingerprint
from atheria_lab.noise import Noise
from atheria_lab.step import LatticeState, Step

Backend = Literal["auto", "torch", "native"]
Progress = Callable[[int, int], None]

BACKENDS: tuple[str, ...] = get_args(Backend)
_SECONDS_BETWEEN_REPORTS = 0.05


class EngineState(NamedTuple):
    """What it takes to go on from here, on the CPU and apart from the engine.

    Attributes:
        psi: complex ``[B, H, W, d_state]``, a copy.
        hidden: copies of a recurrent law's hidden tensors; empty for any other.
        steps_done: steps since the start; with the seed, it is all the noise needs.
        seed: of the noise.
        law: the law's fingerprint.
    """

    psi: Tensor
    hidden: tuple[Tensor, ...]
    steps_done: int
    seed: int
    law: str


def _to_cpu(tensor: Tensor) -> Tensor:
    return tensor.to("cpu", copy=True)


class _Held:
    """The tensors of an engine, so that all can be let go at once, whoever holds the engine."""

    def __init__(self, state: LatticeState, spare: Tensor | None) -> None:
        self.state: LatticeState | None = state
        self.spare = spare

    def free(self) -> None:
        self.state = self.spare = None


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
        reset_every: a recurrent law's hidden tensors start anew before each step whose index
            is a positive multiple of it.
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
        reset_every: int | None = None,
        backend: Backend = "auto",
    ) -> None:
        if backend not in BACKENDS:
            raise ValueError(
                f"backend: got {backend!r}; it takes one of {', '.join(map(repr, BACKENDS))}."
            )
        if noise is not None and not isinstance(noise, Noise):
            raise TypeError(f"noise: got {type(noise).__name__}; it takes a Noise.")
        self._step = Step(
            law, gamma=gamma, norm=norm, noise=noise, seed=seed, reset_every=reset_every
        )
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
            state = self._step.initial(own)
        spare = torch.empty_like(state.psi) if self.backend == "native" else None
        self._stepper = native.Stepper(law) if self.backend == "native" else None
        self._held = _Held(state, spare)
        self._steps_done = 0
        self._finalizer = weakref.finalize(self, self._held.free)

    @property
    def law(self) -> nn.Module:
        """The law that it steps."""
        return self._open_step().law

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
        return self._steps_done

    @property
    def closed(self) -> bool:
        """Whether its tensors are gone."""
        return self._held.state is None

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors that it owns, 0 once closed."""
        if self._held.state is None:
            return 0
        owned = [self._held.state.psi, *self._held.state.hidden]
        owned += [] if self._held.spare is None else [self._held.spare]
        return sum(tensor.nbytes for tensor in owned)

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
        state = self._state()
        saves, result = self._prepare_saves(state.psi, n, save_every, out)
        with ExitStack() as stack, torch.no_grad():
            report = _reporter(progress, n, stack)
            if self._stepper is not None:
                self._native_steps(state.psi, n, save_every or 0, saves, report)
            else:
                self._torch_steps(n, save_every or 0, saves, report)
            if report is not None:
                report(n)
        return result

    def state(self, copy: Callable[[Tensor], Tensor] = _to_cpu) -> EngineState:
        """A copy of all that it takes to go on from here, on the CPU.

        Args:
            copy: makes a copy of a tensor in another place.
        """
        state = self._state()
        return EngineState(
            psi=copy(state.psi.detach()),
            hidden=tuple(copy(h.detach()) for h in state.hidden),
            steps_done=self._steps_done,
            seed=self._step.seed,
            law=fingerprint(self._step.law),
        )

    def restore(self, state: EngineState) -> None:
        """Go on from a state that :meth:`state` gave: of this engine or of an equal one.

        Raises:
            ValueError: it belongs to another law, seed, lattice or precision.
        """
        mine = self._state()
        for name, got, wanted in (
            ("law", state.law, fingerprint(self._step.law)),
            ("seed", state.seed, self._step.seed),
            ("psi's shape", tuple(state.psi.shape), tuple(mine.psi.shape)),
            ("psi's dtype", state.psi.dtype, mine.psi.dtype),
            ("hidden", len(state.hidden), len(mine.hidden)),
        ):
            if got != wanted:
                raise ValueError(f"state: its {name} is {got}; this engine has {wanted}.")
        check_psi(state.psi, name="state.psi")
        with torch.no_grad():
            mine.psi.copy_(state.psi)
            hidden = tuple(
                h.to(m.device, copy=True) for h, m in zip(state.hidden, mine.hidden, strict=True)
            )
        self._held.state = LatticeState(mine.psi, hidden)
        self._steps_done = integer("state.steps_done", state.steps_done, least=0)

    def close(self) -> None:
        """Free its tensors; closing again does nothing."""
        self._finalizer()
        self._stepper = None

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
        law = type(self._step.law).__name__
        if self.closed:
            return f"Engine({law}, closed after {self._steps_done} steps)"
        psi = self._state().psi
        shape = "x".join(map(str, psi.shape))
        return (
            f"Engine({law}, psi {shape} {str(psi.dtype).removeprefix('torch.')} on {psi.device}, "
            f"norm={self._step.norm!r}, backend={self.backend!r}, {self._steps_done} steps done)"
        )

    def _repr_html_(self) -> str:
        rows = {"law": type(self._step.law).__name__, "steps done": f"{self._steps_done:,}"}
        if self.closed:
            rows["state"] = "closed"
        else:
            psi = self._state().psi
            rows["psi"] = f"{tuple(psi.shape)} {psi.dtype} on {psi.device}"
            rows["norm"] = self._step.norm
            rows["backend"] = self.backend + (
                f" ({native.isa()})" if self.backend == "native" else ""
            )
            rows["memory"] = f"{self.nbytes / 2**20:,.2f} MiB"
        cells = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
            for name, value in rows.items()
        )
        return f"<table><caption>Engine</caption>{cells}</table>"

    def _state(self) -> LatticeState:
        if self._held.state is None:
            raise RuntimeError(
                "This engine is closed: its tensors are freed. Make a new Engine, from a "
                "snapshot or an initial psi."
            )
        return self._held.state

    def _open_step(self) -> Step:
        return self._step

    def _native_steps(
        self,
        psi: Tensor,
        n: int,
        save_every: int,
        saves: Tensor | None,
        report: Callable[[int], None] | None,
    ) -> None:
        stepper, spare = self._stepper, self._held.spare
        assert stepper is not None and spare is not None
        done, error = stepper.run(
            psi,
            spare,
            steps=n,
            first_step=self._steps_done,
            gamma=self._step.gamma,
            norm=self._step.norm,
            noise=self._step.noise,
            seed=self._step.seed,
            save_every=save_every,
            saves=saves,
            progress=report,
        )
        self._steps_done += done
        if error is not None:
            raise error

    def _torch_steps(
        self,
        n: int,
        save_every: int,
        saves: Tensor | None,
        report: Callable[[int], None] | None,
    ) -> None:
        last_report = time.monotonic()
        for i in range(1, n + 1):
            self._held.state = self._step(self._state(), self._steps_done)
            self._steps_done += 1
            if saves is not None and i % save_every == 0:
                saves[i // save_every - 1].copy_(self._state().psi)
            if report is not None and time.monotonic() - last_report > _SECONDS_BETWEEN_REPORTS:
                report(i)
                last_report = time.monotonic()

    def _prepare_saves(
        self, psi: Tensor, n: int, save_every: int | None, out: Tensor | np.ndarray | None
    ) -> tuple[Tensor | None, Tensor | np.ndarray | None]:
        """The tensor that states are written to, and the same memory as the caller gave it."""
        if save_every is None:
            if out is not None:
                raise ValueError("out: got one without save_every; give both.")
            return None, None
        save_every = integer("save_every", save_every)
        if save_every > n:
            raise ValueError(f"save_every: got {save_every}; it takes at most n, {n}.")
        shape = (n // save_every, *psi.shape)
        if out is None:
            saves = torch.empty(shape, dtype=psi.dtype, device=psi.device)
            return saves, saves
        if isinstance(out, np.ndarray):
            if not out.flags.writeable:
                raise ValueError("out: it is read-only.")
            saves = torch.from_numpy(out)
        elif isinstance(out, Tensor):
            saves = out.detach()
        else:
            raise TypeError(f"out: got {type(out).__name__}; it takes a tensor or a numpy array.")
        if tuple(saves.shape) != shape or saves.dtype != psi.dtype:
            raise ValueError(
                f"out: got {saves.dtype} {tuple(saves.shape)}; it takes {psi.dtype} {shape}."
            )
        if self._stepper is not None and not (
            saves.device.type == "cpu" and saves.is_contiguous() and not saves.is_conj()
        ):
            raise ValueError("out: the native backend takes contiguous memory on the CPU.")
        return saves, out


def _reporter(progress: bool | Progress, n: int, stack: ExitStack) -> Callable[[int], None] | None:
    """``report(done)`` for what the caller gave as progress."""
    if progress is False:
        return None
    if progress is True:
        try:
            from tqdm.auto import tqdm
        except ImportError:
            raise ImportError(
                "progress=True shows a bar with tqdm: pip install 'atheria-lab[train]', or give "
                "a function of (steps done, n)."
            ) from None
        bar = stack.enter_context(tqdm(total=n, unit="step"))
        return lambda done: _advance(bar, done)
    if not callable(progress):
        raise TypeError(f"progress: got {progress!r}; it takes a bool or a function of (done, n).")
    return lambda done: progress(done, n)


def _advance(bar: Any, done: int) -> None:
    bar.update(done - bar.n)
