"""The folder of a cluster's tasks: files that exist in a sweep folder are not taken for theirs."""

from mnistjax.sweeps.cluster import make_new_folder


def test_existing_files_are_left_alone(tmp_path):
    (tmp_path / "submitit" / "0").mkdir(parents=True)
    (tmp_path / "submitit" / "0" / "1_0_result.pkl").write_bytes(b"a stranger's")
    (tmp_path / "submitit" / "1").symlink_to(tmp_path)
    found = make_new_folder(tmp_path / "submitit")
    assert found == tmp_path / "submitit" / "2"
    assert not list(found.iterdir())
