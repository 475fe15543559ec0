"""What runs, in which order: the curation flow and the ``mammosift`` command."""
