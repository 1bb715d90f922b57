"""Past one machine: ranks that share a lattice or a batch, and sweeps over many runs."""
