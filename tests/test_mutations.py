"""A short round of tests/mutations.py, which mutates every file of a folder."""

import mutations


def test_mutated_files_are_accepted_or_refused_in_one_line(work):
    counts, failures = mutations.fuzz(300, seed=1, work=work)
    assert failures == []
    assert sum(counts.values()) == 300
    assert all(counts[f"{name} refused"] for name in ("run", "killed run", "sweep", "data", "weights"))
