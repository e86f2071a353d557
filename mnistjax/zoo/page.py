"""A page on which one draws a digit, or chooses a picture, and sees what a trained model makes of it.

`web/run.js` computes the model: 250 lines for the operations of `zoo.trace`. ONNX Runtime Web 1.30 would be
14 MB of WebAssembly, and no Python package has it, so that each export would need a network.
"""

import html
from pathlib import Path
from typing import Any

from flax import linen as nn

from mnistjax.pages import escape_data, escape_script, fill
from mnistjax.zoo.card import Card
from mnistjax.zoo.trace import trace_operations

WEB = Path(__file__).parent / "web"


def make_page(model: nn.Module, variables: Any, card: Card) -> str:
    """The page of a trained model as text: one file, which opens without a network.

    ConfigError for images that are neither grey nor coloured, and as `trace_operations`.
    """
    card.check_readable()
    data = {
        "program": trace_operations(model, variables, card),
        "image_shape": card.image_shape,
        "class_names": card.class_names,
        "draws": card.reads_handwriting,
        "light_on_dark": card.light_on_dark,
    }
    script = escape_script("".join((WEB / name).read_text("utf-8") for name in ("run.js", "page.js")))
    images = sum(map(sum, card.test_confusion_matrix))
    about = (
        f"{card.model} with {card.parameters:,} parameters, trained on {card.data}: {card.test_accuracy:.2%} "
        f"of {images:,} test images right. Made with mnistjax."
    )
    parts = {
        "about": html.escape(about),
        "style": (WEB / "page.css").read_text("utf-8"),
        "script": script,
        "data": escape_data(data),
    }
    return fill((WEB / "page.html").read_text("utf-8"), card.name, [script], parts)
