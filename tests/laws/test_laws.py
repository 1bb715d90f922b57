"""What all laws promise: shapes, light cones, periodic boundaries, names and fingerprints."""

import pytest
import torch

from atheria_lab import lattice, laws
from atheria_lab.step import Step

SIZE = 32
LAWS = {
    "MLP": lambda: laws.MLP(2, 8),
    "Conv": lambda: laws.Conv(2, 8),
    "UNet1": lambda: laws.UNet(2, 4, levels=1),
    "UNet2": lambda: laws.UNet(2, 4, levels=2),
    "ConvLSTMUNet1": lambda: laws.ConvLSTMUNet(2, 4, levels=1),
    "ConvLSTMUNet2": lambda: laws.ConvLSTMUNet(2, 4, levels=2),
    "Brickwork": lambda: laws.Brickwork(2),
}
# How far a lattice may be moved so that the law moves with it.
PERIOD = {"MLP": 1, "Conv": 1, "UNet1": 2, "UNet2": 4, "ConvLSTMUNet1": 2, "ConvLSTMUNet2": 4,
          "Brickwork": 2}  # fmt: skip


@pytest.fixture(params=LAWS)
def name(request):
    return request.param


@pytest.fixture
def law(name):
    torch.manual_seed(1)
    return LAWS[name]().double()


def reach(law, y, x, steps=1):
    """How far a change of one cell is felt: (up, down, left, right)."""
    step = Step(law, norm="none")
    psi = lattice.random(SIZE, 2, dtype=torch.complex128)
    other = psi.clone()
    other[0, y, x] += 1
    with torch.no_grad():
        a, b = step.initial(psi), step.initial(other)
        for i in range(steps):
            a, b = step(a, i), step(b, i)
    felt = (a.psi != b.psi).any(-1)[0]
    rows, columns = felt.any(1).nonzero().flatten() - y, felt.any(0).nonzero().flatten() - x
    rows, columns = ((d + SIZE // 2) % SIZE - SIZE // 2 for d in (rows, columns))
    return -rows.min().item(), rows.max().item(), -columns.min().item(), columns.max().item()


def test_the_light_cone_is_the_radius(law):
    reaches = [reach(law, y, y) for y in range(12, 20)]
    assert max(max(each) for each in reaches) == law.radius


def test_the_boundaries_are_periodic(law, name):
    psi = lattice.random(SIZE, 2, dtype=torch.complex128)
    step = Step(law, norm="none")
    shift = PERIOD[name]
    moved = psi.roll((shift, -shift), (1, 2))
    with torch.no_grad():
        a = step(step.initial(psi), 0).psi.roll((shift, -shift), (1, 2))
        b = step(step.initial(moved), 0).psi
    assert torch.allclose(a, b, atol=1e-12)


def test_a_plain_call_takes_and_gives_channels(law):
    x = torch.randn(2, 4, 8, 12, dtype=torch.float64)
    assert law(x).shape == x.shape


def test_the_empty_lattice_stays_empty_at_first(law):
    x = torch.zeros(1, 4, 8, 8, dtype=torch.float64)
    assert torch.equal(law(x), x)


def test_a_law_is_built_again_by_its_name_and_config(law):
    again = laws.build(type(law).__name__, law.config()).double()
    again.load_state_dict(law.state_dict())
    assert again.fingerprint() == law.fingerprint()
    x = torch.randn(1, 4, 8, 8, dtype=torch.float64)
    assert torch.equal(again(x), law(x))


def test_the_fingerprint_changes_with_one_weight(law):
    before = law.fingerprint()
    with torch.no_grad():
        next(law.parameters()).view(-1)[0] += 1e-9
    assert law.fingerprint() != before


def test_wrong_channels_are_refused(law):
    with pytest.raises(ValueError, match="got shape"):
        law(torch.zeros(1, 6, 8, 8, dtype=torch.float64))


@pytest.mark.parametrize("name", ["UNet2", "ConvLSTMUNet2", "Brickwork"], indirect=True)
def test_sides_that_do_not_divide_are_refused(law):
    with pytest.raises(ValueError, match="sides"):
        Step(law)(Step(law).initial(lattice.random((8, 7), 2, dtype=torch.complex128)), 0)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: laws.MLP(0), "d_state"),
        (lambda: laws.MLP(2, hidden=0), "hidden"),
        (lambda: laws.Conv(2, activation="sine"), "activation"),
        (lambda: laws.UNet(2, levels=0), "levels"),
        (lambda: laws.build("Nobody", {}), "Nobody"),
    ],
)
def test_what_makes_no_sense_is_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_a_law_of_ones_own_is_known_by_name():
    class Mine(laws.Law):
        def __init__(self, d_state):
            super().__init__(d_state)

    assert isinstance(laws.build("Mine", {"d_state": 3}), Mine)
