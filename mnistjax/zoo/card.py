"""The card of a trained model: what it is, how it was trained, how good it is."""

from dataclasses import dataclass
from typing import Any, Literal

from mnistjax import checks
from mnistjax.checks import Check
from mnistjax.config import ConfigError
from mnistjax.data.known import HANDWRITING, LIGHT_ON_DARK
from mnistjax.records.fields import IMAGE_SHAPE, MATRIX
from mnistjax.seeds import Spread
from mnistjax.words import printable


@dataclass(frozen=True)
class Card:
    """A trained model's architecture, training, and results on all test images of its data set."""

    name: str  # architecture.dataset[_tag], or the folder of a run
    model: str  # architecture, as in `create_model`
    options: tuple[tuple[str, Any], ...]  # of the architecture
    task: Literal["multiclass", "binary"]
    num_classes: int  # logits per image: 1 for a binary task
    class_names: tuple[str, ...]  # two for a binary task
    data: str  # name of the data set
    data_sha256: str  # of its decoded arrays
    seed: int
    epochs: int  # epoch whose variables were kept
    val_accuracy: float
    test_accuracy: float
    test_f1: float  # macro for a multiclass task
    test_confusion_matrix: tuple[tuple[int, ...], ...]  # rows are the true class
    parameters: int
    seconds: float  # of training in all epochs
    device: tuple[tuple[str, Any], ...]  # used for training: platform, kind, processor, ...
    identity: str  # of the run with these settings and data, SHA-256
    command: str | None = None  # trains the model; None for the folder of a run
    tried: tuple[tuple[int, float, float], ...] = ()  # (seed, validation, test accuracy) of all seeds
    image_shape: tuple[int, int, int] = (28, 28, 1)  # H, W, C of the images that it was trained on
    members: int = 1  # runs in an ensemble; its `seed` is the first member's
    sha256: str = ""  # of the variables and the rest of the card; empty for the folder of a run

    @property
    def spread(self) -> str:
        """Mean, deviation and number of the seeds' test accuracies, "99.67% ± 0.03% (6)"; "" for one seed."""
        tests = Spread(tuple(test for _, _, test in self.tried))
        return f"{tests:.2%} ({tests.n})" if tests.n > 1 else ""

    @property
    def reads_handwriting(self) -> bool:
        """Whether it reads digits or letters. A picture may have several of them."""
        return self.data in HANDWRITING and self.image_shape[2] == 1

    @property
    def light_on_dark(self) -> bool:
        """Whether its images are light ink on a dark ground, like MNIST's."""
        return self.data in LIGHT_ON_DARK

    def check_readable(self) -> None:
        """Raises ConfigError for a model of images that no picture has."""
        channels = self.image_shape[2]
        if channels not in (1, 3):
            raise ConfigError(f"{self.name} takes images of {channels} channels; a picture has 1 or 3")

    def __str__(self) -> str:
        images, device = sum(map(sum, self.test_confusion_matrix)), dict(self.device)
        machine = device.get("processor", "CPU") if device.get("platform") == "cpu" else device.get("kind")
        time = f"{self.seconds:,.0f} s in all, {machine}"
        one = f"seed {self.seed}, epoch {self.epochs} kept"
        facts = {
            "model": f"{self.model} on {self.data}, {self.parameters:,} parameters",
            "test accuracy": f"{self.test_accuracy:.2%} of {images:,} images, F1 {self.test_f1:.4f}",
            "of all seeds": self.spread,
            "validation": f"{self.val_accuracy:.2%}",
            "trained": f"{one if self.members == 1 else f'{self.members} seeds together'}, {time}",
            "by": self.command,
            "sha256": self.sha256,
        }
        rows = [["true \\ read as", *self.class_names]]
        rows += [[name, *row] for name, row in zip(self.class_names, self.test_confusion_matrix, strict=True)]
        rows = [[printable(str(cell)) for cell in row] for row in rows]
        first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
        matrix = [
            "  ".join([f"{name:<{first}}", *(f"{cell:>{max(others)}}" for cell in cells)])
            for name, *cells in rows
        ]
        lines = [self.name, *(f"  {key:<15}{fact}" for key, fact in facts.items() if fact)]
        return "\n".join([*map(printable, lines), *matrix])


TRY = Check(lambda x: type(x) is list and len(x) == 3 and all(map(checks.FINITE.holds, x)), "")
CARD_FIELDS: dict[str, Check] = {
    "name": checks.TEXT,
    "model": checks.TEXT,
    "options": checks.PAIRS,
    "task": checks.choice("multiclass", "binary"),
    "num_classes": checks.whole(1),
    "class_names": checks.TEXTS,
    "data": checks.TEXT,
    "data_sha256": checks.TEXT,
    "seed": checks.SEED,
    "epochs": checks.whole(0),
    "val_accuracy": checks.FINITE,
    "test_accuracy": checks.FINITE,
    "test_f1": checks.FINITE,
    "test_confusion_matrix": MATRIX,
    "parameters": checks.whole(0),
    "seconds": checks.FINITE,
    "device": checks.PAIRS,
    "identity": checks.TEXT,
    "command": checks.optional(checks.TEXT),
    "tried": checks.list_of(TRY, "a list of seeds with two accuracies each"),
    "image_shape": IMAGE_SHAPE,
    "members": checks.whole(1, highest=64),
}
"""The allowed values of the fields of a card in a file."""
