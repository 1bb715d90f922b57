"""Laws: the networks that move psi. One law a file; ``base`` holds their contract."""

from atheria_lab.laws.base import Law, RecurrentLaw, UnitaryLaw, build, fingerprint
from atheria_lab.laws.brickwork import Brickwork
from atheria_lab.laws.conv import Conv
from atheria_lab.laws.convlstm_unet import ConvLSTMUNet
from atheria_lab.laws.mlp import MLP
from atheria_lab.laws.unet import UNet

__all__ = [
    "MLP",
    "Brickwork",
    "Conv",
    "ConvLSTMUNet",
    "Law",
    "RecurrentLaw",
    "UNet",
    "UnitaryLaw",
    "build",
    "fingerprint",
]
