"""A multirun as a few compiled programs.

Data walks from `groups` (jobs of one Spec) to `assignments` (what a worker gets), an `executor` (`processes`,
`inline` or `cluster`) and the `trainer`, and back as `events` to `run`, which keeps the `ledger` and the
`results` of the sweep folder, and to the `view`. Nothing here knows Hydra.
"""
