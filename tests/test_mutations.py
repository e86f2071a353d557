"""A short round of tests/mutations.py, which mutates every file that is read from a folder."""

import mutations


def test_nothing_but_a_line_comes_of_mutated_files(work):
    counts, failures = mutations.fuzz(300, seed=1, work=work)
    assert failures == []
    assert sum(counts.values()) == 300
    assert all(counts[f"{name} refused"] for name in ("run", "killed run", "sweep", "data", "weights"))
