"""What all tests share."""

import torch
from hypothesis import settings

settings.register_profile("lab", deadline=None, print_blob=True)
settings.load_profile("lab")
# Lattices as small as these have no work for a second thread.
torch.set_num_threads(1)
