"""A checkpoint returns what was written, or it is refused: every dtype, every name, every flipped bit."""

from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnistjax import checkpoints

ARRAYS = {
    "state/params/Dense_0/kernel": np.linspace(-1, 1, 60, dtype=np.float32).reshape(12, 5),
    "state/params/half": np.asarray(jnp.array([[1.5, -0.0, 3e38]], jnp.bfloat16)),
    "state/step": np.array(7, np.int32),
    "state/mask": np.array([True, False]),
    "state/empty": np.zeros((0, 3), np.float32),
    "images": np.arange(6, dtype=np.uint8),
    "seed": np.array([1, 2**32 - 1], np.uint32),
}
META = {"epoch": 3, "best": 0.1 + 0.2, "identity": "ab'\"/é"}

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
floats = st.floats(allow_nan=False, allow_infinity=False)


def same(left, right):
    return left.keys() == right.keys() and all(
        left[n].dtype == right[n].dtype
        and left[n].shape == right[n].shape
        and left[n].tobytes() == right[n].tobytes()
        for n in left
    )


def test_checkpoint_round_trips_every_dtype_and_type(tmp_path):
    checkpoints.save_checkpoint(tmp_path, ARRAYS, meta=META)
    loaded = checkpoints.load_checkpoint(tmp_path)
    assert loaded is not None
    assert same(ARRAYS, loaded.arrays)
    assert loaded.meta == META
    assert {k: type(v) for k, v in loaded.meta.items()} == {k: type(v) for k, v in META.items()}
    assert loaded.path == tmp_path / "checkpoint.safetensors"


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(names, st.binary(max_size=20)), st.dictionaries(names, floats | st.integers() | names))
def test_any_names_and_meta_round_trip(tmp_path_factory, blobs, meta):
    folder = tmp_path_factory.mktemp("run")
    arrays = {name: np.frombuffer(blob, np.uint8) for name, blob in blobs.items()}
    checkpoints.save_checkpoint(folder, arrays, meta=meta)
    loaded = checkpoints.load_checkpoint(folder)
    assert loaded is not None
    assert same(arrays, loaded.arrays)
    assert loaded.meta == meta


def test_equal_states_have_equal_files(tmp_path):
    files = []
    for number in range(6):
        folder = tmp_path / str(number)
        folder.mkdir()
        order = ARRAYS if number % 2 else dict(reversed(ARRAYS.items()))
        checkpoints.save_checkpoint(folder, order, meta=META)
        files.append((folder / checkpoints.CHECKPOINT).read_bytes())
    assert len(set(files)) == 1


def test_the_hash_tells_equal_bytes_of_other_shapes_and_types_apart():
    array = np.ones((2, 3), np.float32)
    others = [array, array.T, array.ravel(), array.view(np.int32)]
    assert len({checkpoints.digest({"w": other}, {}) for other in others}) == 4


def test_unsupported_dtypes_are_refused(tmp_path):
    with pytest.raises(checkpoints.CheckpointError, match="'x': complex64"):
        checkpoints.save_checkpoint(tmp_path, {"x": np.zeros(2, np.complex64)}, meta={})
    assert not list(tmp_path.iterdir())


def test_every_flipped_bit_is_detected(tmp_path):
    checkpoints.save_checkpoint(tmp_path, ARRAYS, meta=META)
    path = tmp_path / checkpoints.CHECKPOINT
    content = path.read_bytes()
    detected = 0
    for position in range(len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 1 << (position % 8)
        path.write_bytes(flipped)
        try:
            loaded = checkpoints.load_checkpoint(tmp_path)
        except checkpoints.CheckpointError:
            detected += 1
            continue
        assert loaded is not None
        assert same(ARRAYS, loaded.arrays)  # the bit was in the header's white space
        assert loaded.meta == META
    assert detected > 0.95 * len(content)


def test_a_truncated_checkpoint_is_detected(tmp_path):
    checkpoints.save_checkpoint(tmp_path, ARRAYS, meta=META)
    path = tmp_path / checkpoints.CHECKPOINT
    content = path.read_bytes()
    for length in (0, 4, 8, 100, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(checkpoints.CheckpointError):
            checkpoints.load_checkpoint(tmp_path)


def test_the_previous_checkpoint_replaces_a_damaged_one(tmp_path):
    assert checkpoints.load_checkpoint(tmp_path) is None
    for epoch in (1, 2, 3):
        checkpoints.save_checkpoint(tmp_path, ARRAYS, meta={"epoch": epoch})
    current, previous = tmp_path / checkpoints.CHECKPOINT, tmp_path / checkpoints.PREVIOUS
    current.write_bytes(current.read_bytes()[:-1] + b"?")
    with pytest.warns(RuntimeWarning, match=r"checkpoint\.safetensors .*checkpoint\.previous\.safetensors"):
        loaded = checkpoints.load_checkpoint(tmp_path)
    assert loaded is not None
    assert (loaded.meta["epoch"], loaded.path) == (2, previous)

    current.unlink()  # as after a kill between the two renames
    with pytest.warns(RuntimeWarning, match="No such file"):
        assert checkpoints.load_checkpoint(tmp_path) is not None

    previous.write_bytes(b"junk")
    with pytest.raises(checkpoints.CheckpointError, match="no usable checkpoint"):
        checkpoints.load_checkpoint(tmp_path)


Slots = namedtuple("Slots", ["mu", "nu"])


def tree():
    optimizer = (Slots(jnp.ones((2, 3)), {"b": jnp.zeros(3, jnp.bfloat16)}), jnp.int32(4), None)
    return {"params": {"Dense_0": {"kernel": jnp.ones((2, 3))}}, "opt": optimizer}


def test_flatten_names_leaves_by_path_and_unflatten_reverses_it(tmp_path):
    arrays = checkpoints.flatten(tree())
    assert set(arrays) == {"params/Dense_0/kernel", "opt/0/mu", "opt/0/nu/b", "opt/1"}
    assert all(isinstance(array, np.ndarray) for array in arrays.values())
    checkpoints.save_checkpoint(tmp_path, arrays, meta={})
    loaded = checkpoints.load_checkpoint(tmp_path)
    assert loaded is not None
    for template in (tree(), jax.eval_shape(tree)):
        back = checkpoints.unflatten(template, loaded.arrays)
        assert jax.tree.structure(back) == jax.tree.structure(tree())
        assert same(checkpoints.flatten(back), arrays)


def test_unflatten_names_what_differs():
    arrays = checkpoints.flatten(tree())
    kernel = "params/Dense_0/kernel"
    wrong = {**arrays, kernel: np.ones((2, 4), np.float32)}
    with pytest.raises(
        checkpoints.CheckpointError, match=rf"'{kernel}': expected float32\[2, 3\], found float32\[2, 4\]"
    ):
        checkpoints.unflatten(tree(), wrong)
    with pytest.raises(checkpoints.CheckpointError, match=r"expected float32\[2, 3\], found float64\[2, 3\]"):
        checkpoints.unflatten(tree(), {**arrays, kernel: np.ones((2, 3))})
    with pytest.raises(checkpoints.CheckpointError, match=r"'extra' is not expected, found uint8\[1\]"):
        checkpoints.unflatten(tree(), {**arrays, "extra": np.zeros(1, np.uint8)})
    arrays.pop(kernel)
    with pytest.raises(
        checkpoints.CheckpointError, match=rf"'{kernel}' is missing, expected float32\[2, 3\]"
    ):
        checkpoints.unflatten(tree(), arrays)
    with pytest.raises(checkpoints.CheckpointError, match="two leaves"):
        checkpoints.flatten({"a": {"b": 1}, "a/b": 2})
