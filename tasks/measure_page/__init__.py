"""The page of a measuring: values in words, charts, pictures, HTML, style and script.

Modules here are steps of `tasks.measure_reports`; none of them is a stage of its own.
"""
