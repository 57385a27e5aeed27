"""Reading and writing memory as fast as it goes."""

from __future__ import annotations

from remoe_sim.kernels.compile import kernel


@kernel
def triad(a, b, c, factor):
    """a = b + factor · c over float64[n]: 24 bytes per element, as STREAM counts them (McCalpin, 1995)."""
    for i in range(a.size):
        a[i] = b[i] + factor * c[i]
