"""What all tests share."""

import torch
from hypothesis import settings

# The same examples in every run: what passes here passes elsewhere.
settings.register_profile("lab", deadline=None, print_blob=True, derandomize=True)
settings.load_profile("lab")
# Lattices as small as these have no work for a second thread.
torch.set_num_threads(1)
