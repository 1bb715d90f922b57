"""A step whose backward pass makes its activations again: it saves no more than the states.

Autograd keeps what every layer of a law computed, six states' worth a step for an MLP. The fused
step keeps the state that it came from (which is the one that the step before went to, so a chain
of steps keeps one state a step), and its vector-Jacobian product makes a tile's activations again
in the cache, on its way back through that tile. So it is faster than autograd, too: neither
activations nor their gradients ever travel to memory. (FlashAttention does the same for attention:
Dao et al., NeurIPS 2022.)

For PyTorch it is an ordinary operator, ``torch.ops.atheria_lab.lattice_step``: autograd, hooks,
``torch.compile`` and fake tensors see one node.
"""

from atheria_lab.fused.step import FusedStep, why_not

__all__ = ["FusedStep", "why_not"]
