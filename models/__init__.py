"""Everything that is fitted: networks, objectives, encoders, clusterers, neighbours."""
