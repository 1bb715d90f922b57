"""Numbers to bytes and back: the same, or within the bound."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from runs import engine, fill

import atheria_lab as al
from atheria_lab.snapshots import Lossy
from atheria_lab.snapshots.codecs import decode, encode

DTYPES = [np.complex64, np.complex128, np.float32, np.float64, np.int64, np.bool_]


def there_and_back(tensor, compression):
    codec, data = encode(tensor, compression)
    assert data.dtype == np.uint8 and data.ndim == 1
    return decode(codec, data.copy(), tuple(tensor.shape), tensor.dtype)


@given(
    array=st.sampled_from(DTYPES).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=1, max_dims=4, max_side=5))
    ),
    compression=st.sampled_from([None, "zstd", "pcodec"]),
)
def test_lossless_is_lossless(array, compression):
    """To the last bit: NaN, infinity, -0 and subnormal numbers too."""
    back = there_and_back(torch.from_numpy(array), compression)
    assert back.numpy().dtype == array.dtype and back.numpy().tobytes() == array.tobytes()


@given(
    array=st.sampled_from(DTYPES[:4]).flatmap(
        lambda dtype: hnp.arrays(
            dtype,
            hnp.array_shapes(min_dims=1, max_dims=4, max_side=5),
            elements=st.floats(-(2.0**40), 2.0**40, width=32).map(float)
            if np.dtype(dtype).kind == "f"
            else st.complex_numbers(max_magnitude=2.0**30, width=64),
        )
    ),
    power=st.floats(-12, 6),
)
def test_lossy_keeps_its_bound(array, power):
    tensor, bound = torch.from_numpy(array), 10.0**power
    back = there_and_back(tensor, Lossy(bound))
    assert back.dtype == tensor.dtype and back.shape == tensor.shape
    error = (back.to(torch.complex128) - tensor.to(torch.complex128)).view(-1)
    assert torch.view_as_real(error).abs().max() <= bound


def test_views_and_bfloat16():
    psi = al.lattice.random(4, 2, dtype=torch.complex64)
    for view in (psi.mT, psi.conj(), psi.flip(1)[..., ::2]):
        for compression in (None, "zstd", "pcodec"):
            assert torch.equal(there_and_back(view, compression), view)
    half = torch.randn(3, 4).bfloat16()
    for compression in (None, "zstd", "pcodec", Lossy(0.1)):
        assert torch.equal(there_and_back(half, compression), half)


def test_lossy_in_a_store(tmp_path):
    smooth = al.Engine(al.laws.MLP(2, 3), al.lattice.gaussian(64, 2, width=0.2))
    with smooth, al.SnapshotStore(directory=tmp_path, compression=Lossy(1e-4)) as store:
        store.add(smooth)
        store.flush()
        assert torch.equal(store[0].psi, smooth.psi)  # from host memory
        assert store.nbytes.disk < store.nbytes.host / 2
        psi = smooth.psi.clone()
    with al.SnapshotStore(directory=tmp_path) as store:
        error = torch.view_as_real(store[0].psi - psi).abs().max()
        assert 0 < error <= 1e-4


def test_lossy_refuses_what_is_not_finite(tmp_path):
    lossy = {"directory": tmp_path, "compression": Lossy(1e-3)}
    with engine(norm="none", backend="torch") as running, al.SnapshotStore(**lossy) as store:
        fill(store, running, 1)
        running.psi[0, 0, 0, 0] = complex("inf")
        with pytest.raises(ValueError, match="NaN or infinity"):
            store.add(running)
        assert len(store) == 1


@pytest.mark.parametrize("tolerance", [0, -1.0, float("nan"), float("inf")])
def test_a_tolerance_is_positive(tolerance):
    with pytest.raises(ValueError, match="tolerance: got"):
        Lossy(tolerance)
