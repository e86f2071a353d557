"""Trains the jobs of a sweep in a few compiled programs. Nothing here imports Hydra.

`run` divides the jobs into `groups` and these into assignments, which an `executor` (`processes`, `cluster`)
passes to a `trainer`. `events` come back to the `view` and to `run`, which writes the sweep folder (`ledger`,
`results`) and the W&B run of the sweep (`mirror`).
"""
