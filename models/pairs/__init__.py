"""The exact pair engine: Euclidean pairs among many rows of many columns, without their square.

Read in this order: `projection` (a few coordinates that bound every distance from below),
`leaves` (small groups of rows with boxes), `products` (candidate pairs of two groups by one matrix
product), `within` (pairs within a radius, kept as a forest), `bfloat16` and `every_pair` (the same
where boxes prune nothing), `nearest` (k nearest neighbours),
`spanning_tree` (of mutual reachability), `blocks` and `block_search` (the same over blocks of rows
on many workers).
"""
