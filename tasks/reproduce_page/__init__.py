"""Template of the page of a reproduction."""
