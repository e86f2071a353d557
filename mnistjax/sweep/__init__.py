"""A multirun as a few compiled programs: jobs to groups by Spec, groups to lanes, lanes to worker processes.

`plan` makes the groups, `ledger` keeps the sweep folder, `worker` trains, `supervisor` watches the workers,
`run` puts them together. Nothing of Hydra.
"""
