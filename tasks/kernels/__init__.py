"""Pure functions: arrays in, arrays out. No file, no clock, no Prefect, no Dask."""
