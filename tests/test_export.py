"""`mnistjax-export`: every model in every format, read by programs without mnistjax; a page to draw on."""

import base64
import dataclasses
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy import ndimage

import mnistjax
from mnistjax.cli import predict
from mnistjax.cli.export import SUFFIXES, main
from mnistjax.config import ConfigError
from mnistjax.zoo.page import make_page
from mnistjax.zoo.trace import trace_operations
from test_template import opened

PACKAGED = mnistjax.list_models(pretrained=True)
READER = """
import sys
sys.modules["mnistjax"] = None  # what must not be needed
import json, pathlib
import jax, numpy as np, onnxruntime
from jax import export
for name in sys.argv[1:]:
    images = np.load(f"{name}.npy")
    program = export.deserialize(bytearray(pathlib.Path(f"{name}.stablehlo").read_bytes()))
    np.save(f"{name}.stablehlo.npy", program.call(images))
    session = onnxruntime.InferenceSession(f"{name}.onnx")
    (given,) = session.get_inputs()
    (logits,) = session.run(None, {given.name: images.astype(np.float32) / 255})
    np.save(f"{name}.onnx.npy", logits)
"""


@pytest.fixture(scope="module")
def drawn():
    """Images of a model's shape, and its logits for them."""

    def draw(trained, count=3):
        model, variables, card = trained
        images = np.random.default_rng(0).integers(0, 256, (count, *card.image_shape), dtype=np.uint8)
        return images, np.asarray(jax.jit(model.apply)(variables, images))

    return draw


def test_a_model_is_written_for_each_reader(work, capsys, drawn):
    for suffix in (*SUFFIXES, ""):
        assert main(["mlp.mnist", f"out/mine{suffix}"]) == 0
        assert capsys.readouterr().out == f"out/mine{suffix}\n"
    images, logits = drawn(mnistjax.load("mlp.mnist"))
    for name in ("out/mine.safetensors", "out/mine"):
        model, variables, card = mnistjax.load(name)
        assert card.name == "mine"
        np.testing.assert_array_equal(jax.jit(model.apply)(variables, images), logits)
    assert main(["out/mine.safetensors", "again.stablehlo", "--html", "page.html"]) == 0
    assert (work / "again.stablehlo").read_bytes()[:20]
    one, other = (
        (work / name).read_text().partition('id="data">')[2] for name in ("page.html", "out/mine.html")
    )
    assert one == other


def test_options_may_stand_between_the_model_and_the_file(work, capsys):
    (work / "mine.safetensors").write_text("old")
    assert main(["mlp.mnist", "--force", "mine.safetensors"]) == 0
    assert mnistjax.load("mine.safetensors")[2].name == "mine"


def test_what_is_wrong_costs_a_line_and_writes_nothing(work, capsys, monkeypatch):
    (work / "there.onnx").write_text("precious")
    (work / "folder.html").mkdir()
    (work / "mine.safetensors").write_text("precious")
    cases = {
        (
            "mlp.mnst",
            "a.onnx",
        ): "unknown pretrained model, saved file or folder of a run 'mlp.mnst'; nearest is",
        ("mlp.mnist", "a.onx"): "unknown suffix of a file '.onx'; nearest is '.onnx'",
        ("mlp.mnist",): "give a FILE to write, or --html FILE",
        ("mlp.mnist", "there.onnx"): "there.onnx exists; add --force to replace it, or give another name",
        ("mlp.mnist", "--html", "x.onnx"): "--html x.onnx would write a page; for .onnx leave out --html",
        ("mlp.mnist", "folder.html"): "folder.html is a folder; give a file that ends in .html",
        ("mlp.mnist", "a.onnx", "b.onnx"): "unrecognized arguments: b.onnx",
        ("mlp.mnist", "mlp.mnist"): "a folder is mlp.mnist/",
        ("here", "a.onnx"): "unknown pretrained model",
    }
    before = sorted(work.rglob("*"))
    for words, message in cases.items():
        assert main([*words]) == 2
        printed = capsys.readouterr()
        assert message in printed.err
        assert printed.err.count("\n") == 1
        assert printed.out == ""
    assert sorted(work.rglob("*")) == before
    assert main(["mlp.mnist", "there.onnx", "--force"]) == 0
    assert (work / "there.onnx").read_bytes() != b"precious"
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    assert main(["mlp.mnist", "b.onnx", "--html", "b.html"]) == 2
    assert "mnistjax[onnx]" in capsys.readouterr().err
    assert not (work / "b.html").exists()


class Odd(nn.Module):
    """A model with operations that no page has."""

    num_classes: int = 10

    @nn.compact
    def __call__(self, images, train=False):
        x = jnp.sort(images.reshape(len(images), -1) / 255, axis=-1)
        return nn.Dense(self.num_classes)(x)


class Looping(nn.Module):
    """A model that goes over the rows of an image: a loop, whose body must not be taken for all of it."""

    num_classes: int = 10

    @nn.compact
    def __call__(self, images, train=False):
        rows = jnp.moveaxis(images[..., 0], 1, 0) / 255
        x, _ = jax.lax.scan(lambda sum, row: (sum + row, None), jnp.zeros_like(rows[0]), rows)
        return nn.Dense(self.num_classes)(x)


@pytest.mark.parametrize(("model", "operation"), [(Odd(), "sort"), (Looping(), "scan")])
def test_a_page_needs_operations_that_it_has(model, operation):
    _, _, card = mnistjax.load("mlp.mnist")
    variables = model.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    with pytest.raises(ConfigError, match=f"a page can't compute {operation}, which this mlp needs"):
        make_page(model, variables, card)


def test_what_depends_on_no_image_is_computed_before():
    model, variables, card = mnistjax.load("cnn_bn.mnist")
    program = trace_operations(model, variables, card)
    names = [name for name, *_ in program["operations"]]
    assert "rsqrt" not in names  # of the running variances
    numbers = sum(int(np.prod(shape)) for shape, _ in program["constants"].values())
    assert numbers <= sum(leaf.size for leaf in jax.tree.leaves(variables))
    shape, text = next(iter(program["constants"].values()))
    assert len(base64.b64decode(text)) == 4 * np.prod(shape)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The inputs_kv arg:DeprecationWarning")  # jax2onnx 0.17 calls Flax so
def test_every_model_has_its_logits_in_every_format(work, drawn):
    expected = {}
    for name in PACKAGED:
        for suffix in (".onnx", ".stablehlo", ".safetensors", ""):
            assert main([name, f"{name}{suffix}" if suffix else f"folder/{name}/"]) == 0
        trained = mnistjax.load(name)
        images, expected[name] = drawn(trained)
        np.save(f"{name}.npy", images)
        for path in (f"{name}.safetensors", f"folder/{name}"):
            model, variables, _ = mnistjax.load(work / path)
            again = jax.jit(model.apply)(variables, images)
            np.testing.assert_array_equal(again, expected[name])
    done = subprocess.run(
        [sys.executable, "-c", READER, *PACKAGED], capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    for name, logits in expected.items():
        for kind in ("stablehlo", "onnx"):
            scale = max(1.0, np.abs(logits).max())
            np.testing.assert_allclose(
                np.load(f"{name}.{kind}.npy") / scale, logits / scale, atol=1e-5, rtol=0
            )


@pytest.mark.slow
def test_every_model_has_its_logits_in_a_page(work, drawn):
    for name in PACKAGED:
        assert main([name, f"{name}.html"]) == 0
        assert (work / f"{name}.html").stat().st_size < 12e6
        images, logits = drawn(mnistjax.load(name), count=2)
        with opened(work / f"{name}.html") as page:
            for image, expected in zip(images, logits, strict=True):
                pixels = (image.astype(np.float32) / 255).ravel().tolist()
                found = page.evaluate(
                    "pixels => run(DATA.program, CONSTANTS, Float32Array.from(pixels)).map(one => [...one])",
                    pixels,
                )
                scale = max(1.0, np.abs(expected).max())
                np.testing.assert_allclose(np.array(found[0]) / scale, expected / scale, atol=1e-5, rtol=0)
                assert sum(found[1]) == pytest.approx(1, abs=1e-5)


ROUND = (
    (0.5, 0.2),
    (0.35, 0.3),
    (0.3, 0.5),
    (0.35, 0.7),
    (0.5, 0.8),
    (0.65, 0.7),
    (0.7, 0.5),
    (0.65, 0.3),
    (0.5, 0.2),
)
STROKES = {
    "0": [ROUND],
    "1": [[(0.5, 0.15), (0.5, 0.85)]],
    "2": [[(0.3, 0.3), (0.5, 0.2), (0.7, 0.3), (0.65, 0.45), (0.3, 0.8), (0.75, 0.8)]],
    "4": [[(0.35, 0.2), (0.3, 0.55), (0.7, 0.55)], [(0.65, 0.2), (0.62, 0.85)]],
    "7": [[(0.3, 0.2), (0.7, 0.2), (0.45, 0.85)]],
}  # fmt: skip


@pytest.mark.slow
def test_digits_drawn_with_the_mouse_are_read_live(work):
    assert main(["cnn_bn.mnist", "--html", "page.html"]) == 0
    with opened(work / "page.html", "dark") as page:
        box = page.locator("#paper").bounding_box()
        assert box

        def at(place, scale, left, top):
            x, y = (scale * part + move for part, move in zip(place, (left, top), strict=True))
            return box["x"] + x * box["width"], box["y"] + y * box["height"]

        for digit, lines in STROKES.items():
            for where in ((1, 0, 0), (0.4, 0.55, 0.5)):  # large in the middle, small in a corner
                for line in lines:
                    page.mouse.move(*at(line[0], *where))
                    page.mouse.down()
                    for place in line[1:]:
                        page.mouse.move(*at(place, *where), steps=5)
                    page.wait_for_selector("#classes li.best")  # before the line ends
                    page.mouse.up()
                page.wait_for_selector(f"#answer:text-matches('^{digit} ')")
                assert page.locator("#classes li.best .name").inner_text() == digit
                shares = page.locator("#classes .share").all_inner_texts()
                assert sum(float(share.rstrip("%")) for share in shares) == pytest.approx(100, abs=0.6)
                page.keyboard.press("Escape")
                assert page.locator("#classes li.best").count() == 0
        page.mouse.click(*at((0.5, 0.5), 1, 0, 0))  # a dot
        page.wait_for_selector("#classes li.best")
        page.click("#clear")
        assert page.inner_text("#answer").strip() == ""


@pytest.mark.slow
def test_a_drawn_digit_has_its_centre_of_mass_where_mnists_have_it(work):
    """At row and column 14 of 0 to 27: the mean over MNIST is 13.99 and 14.00."""
    assert main(["mlp.mnist", "page.html"]) == 0
    with opened(work / "page.html") as page:
        for lines in STROKES.values():
            places = [[(300 * x, 300 * y) for x, y in line] for line in lines]
            pixels = page.evaluate("lines => [...normalizeLines(lines)]", places)
            middle = ndimage.center_of_mass(np.reshape(pixels, (28, 28)))
            assert middle == pytest.approx((14, 14), abs=0.1)


@pytest.mark.slow
def test_a_page_reads_pictures_for_a_model_of_things(work, capsys):
    """A picture with a light ground is read as `mnistjax-predict` reads it."""
    from PIL import Image

    drawing = np.full((300, 200, 3), 250, np.uint8)
    drawing[60:240, 40:80] = drawing[60:240, 120:160] = 40  # two trouser legs
    drawing[40:90, 40:160] = 40
    Image.fromarray(drawing).save("trousers.png")
    assert main(["cnn_bn.fashion_mnist", "page.html"]) == 0
    with opened(work / "page.html") as page:
        assert page.locator("#paper").is_hidden()
        page.set_input_files("#file", "trousers.png")
        page.wait_for_selector("#classes li.best")
        best = page.locator("#classes li.best .name").inner_text()
        alpha = 255 * (drawing[..., :1] < 100).astype(np.uint8)
        Image.fromarray(np.concatenate([drawing // 4, alpha], axis=-1)).save("clear.png")
        before = page.inner_text("#time")
        page.set_input_files("#file", "clear.png")
        page.wait_for_function("before => document.getElementById('time').textContent !== before", arg=before)
        assert page.locator("#classes li.best .name").inner_text() == best
        (work / "text.png").write_text("no picture")
        page.set_input_files("#file", "text.png")
        page.wait_for_selector("#answer:text('not a picture')")
    capsys.readouterr()
    assert predict.main(["cnn_bn.fashion_mnist", "trousers.png", "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert best == "Trouser"
    assert str(answer).count("Trouser")


def test_no_name_of_a_stranger_becomes_code(work):
    """Names come from files of strangers."""
    model, variables, card = mnistjax.load("mlp.mnist")
    evil = "</script><script>window.pwned=1</script><img src=x onerror=alert(1)>"
    card = dataclasses.replace(card, name=evil, class_names=(evil, *card.class_names[1:]))
    page = make_page(model, variables, card)
    assert evil not in page
    assert page.count("</script>") == 2
    data = page.partition('id="data">')[2].partition("</script>")[0]
    assert json.loads(data)["class_names"][0] == evil
