"""The parts of ``report/index.html``: what is gathered for it, its pictures, its page and style.

Stages do not import this package; ``tasks.reports`` alone does. It lies outside ``tasks.kernels``
because the shards of tiles are keyed by that package's code: a new look of the report shall not cut
a single tile again.
"""
