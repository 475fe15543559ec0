"""Everything that is fitted: networks, objectives, encoders, clusterers, neighbours."""

from models import kernel_cache

kernel_cache.keep_apart()
