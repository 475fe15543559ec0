"""The steps of a curation run, one module a stage."""
