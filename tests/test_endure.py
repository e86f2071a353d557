"""A few of the kills and disks that scripts/endure.py tests in full."""

import pytest

import endure


@pytest.mark.slow
def test_a_run_killed_at_a_write_resumes_to_the_same_bits(tmp_path):
    writes = endure.count_writes(tmp_path)
    assert writes > 40
    for number in (2, writes // 3, writes - 8):
        assert endure.kill_and_resume(tmp_path, number) == "same bits"


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [4, 28, 60, 800])
@pytest.mark.parametrize("sweep", [False, True])
def test_on_a_full_disk_only_complete_runs_are_done(kilobytes, sweep):
    try:
        found = endure.fill(kilobytes, sweep=sweep)
    except PermissionError as error:
        pytest.skip(str(error))
    assert found in ("exit code 0", "exit code 1", "exit code 2")
    assert (found == "exit code 0") == (kilobytes == 800)
