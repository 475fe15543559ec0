"""The page of a review: what a person decides about, in HTML and as contact sheets.

Modules here are steps of `tasks.reviews`; none of them is a stage of its own.
"""
