"""Throws arguments at the compiled module: some fit, most do not, none may crash it.

    python tests/native/fuzz_binding.py <folder of the compiled module> <how many inputs>

Run by ``make sanitize`` with a module built for AddressSanitizer. It needs numpy only: the
module is loaded by its path, without the package.
"""

from __future__ import annotations

import importlib.util
import random
import sys
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

ARRAYS = ("psi", "spare", "saves", "next", "scales", "gradient", "psi_gradient")
REFUSALS = (ValueError, TypeError, BufferError)


def load(folder):
    """The compiled module in a folder."""
    path = next(Path(folder).glob("_native*.so"))
    spec = importlib.util.spec_from_file_location("_native", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def good(rng):
    """Arguments that fit together."""
    law = rng.choice(["MLP", "Conv", "Brickwork"])
    real, complex_ = rng.choice([("f4", "c8"), ("f8", "c16")])
    batch, height, width, d = (rng.randint(1, n) for n in (2, 5, 9, 4))
    if law == "Brickwork":
        height, width = 2 * height, 2 * width
    hidden, steps = rng.randint(1, 9), rng.randint(1, 3)
    shape = (batch, height, width, d)

    def array(shape, dtype):
        return np.full(shape, 0.1, dtype)

    if law == "Brickwork":
        weights = [array((2, 4 * d, 4 * d), complex_)]
    else:
        kernel = (3, 3) if law == "Conv" else ()
        point = (1, 1) if law == "Conv" else ()
        weights = [
            array((hidden, 2 * d, *kernel), real),
            array(hidden, real),
            array((2 * d, hidden, *point), real),
            array(2 * d, real),
        ]
    save_every = rng.randint(0, 3)
    saves = array((steps // save_every, *shape), complex_) if 0 < save_every <= steps else None
    return {
        "law": law,
        "weights": weights,
        "activation": rng.choice(["silu", "relu", "gelu", "tanh"]),
        "psi": array(shape, complex_),
        "spare": array(shape, complex_),
        "saves": saves,
        "gamma": rng.random(),
        "norm": "none" if law == "Brickwork" else rng.choice(["lattice", "cell", "none"]),
        "phase": rng.choice([0.0, 1.0]),
        "sign": rng.choice([0.0, 0.5]),
        "seed": rng.getrandbits(64),
        "first_step": rng.getrandbits(40),
        "steps": steps,
        "save_every": save_every,
        "threads": rng.randint(1, 4),
        "isa": rng.choice([None, "baseline"]),
        "progress": None,
    }


def once(rng):
    """Arguments of one step, not in place."""
    arguments = good(rng)
    psi = arguments["psi"]
    arguments["next"] = arguments.pop("spare")
    arguments["scales"] = np.ones(psi.shape[0], psi.real.dtype)
    arguments["step"] = arguments.pop("first_step")
    for name in ("saves", "steps", "save_every", "progress"):
        del arguments[name]
    return arguments


def back(rng):
    """Arguments of a backward pass."""
    arguments = once(rng)
    asked = rng.random() < 0.8
    arguments["gradient"] = arguments["psi"].copy()
    arguments["psi_gradient"] = arguments["psi"].copy() if rng.random() < 0.8 else None
    arguments["weight_gradients"] = [one.copy() for one in arguments["weights"]] if asked else []
    return arguments


def misaligned(array):
    """The same numbers, one byte off."""
    memory = np.empty(array.nbytes + 1, np.uint8)
    other = memory[1:].view(array.dtype).reshape(array.shape)
    other[...] = array
    return other


def spoilt(rng, array):
    """An array that no longer fits, or only just."""
    if not isinstance(array, np.ndarray):
        return rng.choice([0, "x", b"bytes", [], object()])
    kinds = ["f4", "f8", "c8", "c16", "i4", "f2", ">f4", ">c8", "?", "O"]
    spoilers = [
        lambda: None,
        lambda: np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape),  # read-only
        lambda: misaligned(array),
        lambda: array[..., :0],
        lambda: array[:-1],
        lambda: array[None],
        lambda: array.T,
        lambda: array[::-1],
        lambda: np.repeat(array, 2, axis=-1)[..., ::2],
        lambda: np.broadcast_to(array[:1], (3, *array.shape[1:])),
        lambda: array.astype(rng.choice(kinds)),
        lambda: array.ravel(),
        lambda: array.ravel()[0],
        lambda: array.tobytes(),
        lambda: bytearray(array.tobytes()),
        lambda: memoryview(array),
        lambda: array.tolist(),
        lambda: np.full_like(array, np.nan),
        lambda: np.full_like(array, np.inf),
    ]
    try:
        return rng.choice(spoilers)()
    except (ValueError, IndexError, TypeError):  # an array spoilt before: it has no such side
        return None


def anything(rng):
    """A value for an argument that is no array."""
    numbers = [0, 1, 2, -1, 1 << 31, 1 << 63, (1 << 64) - 1, 1 << 70, 0.5, -0.5]
    words = ["", "lattice", "AVX-512", "Conv", "\0", "é" * 50, b"x"]
    others = [None, float("nan"), float("inf"), [], {}, True]
    return rng.choice(numbers + words + others)


def spoil(rng, arguments):
    """Change one argument, or a few."""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        name = rng.choice(list(arguments))
        arrays = [one for one in ARRAYS if one in arguments]
        if name in arrays:
            other = arguments[rng.choice(arrays)]
            arguments[name] = other if rng.random() < 0.2 else spoilt(rng, arguments[name])
        elif name in ("weights", "weight_gradients"):
            weights = list(arguments[name]) if isinstance(arguments[name], list) else []
            if weights and rng.random() < 0.8:
                i = rng.randrange(len(weights))
                weights[i] = spoilt(rng, weights[i])
            else:
                weights = rng.choice([weights[1:], [*weights, None], None, "four", {}])
            arguments[name] = weights
        elif name in ("steps", "first_step", "step", "save_every"):
            # A huge number of steps is good input, but it would take for ever.
            arguments[name] = rng.choice([0, 1, 2, -1, None, 1.5, "2", 1 << 64])
        elif name == "progress":
            arguments[name] = rng.choice([0, "x", lambda done: None])
        else:
            arguments[name] = anything(rng)


def main():
    """Fuzz; prints what came of the inputs."""
    native, count = load(sys.argv[1]), int(sys.argv[2])
    rng = random.Random(int(sys.argv[3]) if len(sys.argv) > 3 else 0)
    outcomes = Counter()
    np.seterr(all="ignore")
    warnings.simplefilter("ignore", np.exceptions.ComplexWarning)
    for _ in range(count):
        name, make = rng.choice([("step", good), ("step_once", once), ("vjp", back)])
        arguments = make(rng)
        if rng.random() < 0.9:
            spoil(rng, arguments)
        try:
            result = getattr(native, name)(**arguments)
        except REFUSALS as refusal:
            outcomes[type(refusal).__name__] += 1
        else:
            assert name != "step" or result == (arguments["steps"], None)
            outcomes[name] += 1
    print(f"{count} inputs: {dict(outcomes)}")


if __name__ == "__main__":
    main()
