"""Images and tables in W&B's types."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SHOWN = 32  # images of each kind
MOST_CELLS = 10_000  # of a confusion matrix: W&B cuts longer tables


@dataclass(frozen=True, eq=False)
class Examples:
    """Test images with the model's predictions."""

    images: np.ndarray  # (N, H, W) or (N, H, W, C) uint8
    labels: np.ndarray  # (N,) int
    probabilities: np.ndarray  # (N, K) float
    class_names: Sequence[str]
    light_on_dark: bool = True  # whether the images are light ink on a dark ground

    def show(self, indices: Sequence[int] | np.ndarray, *, on_paper: bool = False) -> np.ndarray:
        """Images for people, (N, H, W) or (N, H, W, 3) uint8; other numbers of channels are averaged.

        With `on_paper`, light ink on a dark ground becomes dark on light.
        """
        images = self.images[indices]
        if images.ndim == 4 and images.shape[3] != 3:
            images = images.mean(axis=3).round().astype(np.uint8)
        return 255 - images if on_paper and self.light_on_dark else images

    def describe(self, index: int) -> tuple[str, str, float]:
        """An image's true class, its predicted class and the probability of that."""
        row = self.probabilities[index]
        names, predicted = self.class_names, int(row.argmax())
        return names[int(self.labels[index])], names[predicted], float(row[predicted])

    def errors(self) -> np.ndarray:
        """Indices of the misclassified images, the most confident error first."""
        wrong = np.flatnonzero(self.probabilities.argmax(axis=1) != self.labels)
        return wrong[np.argsort(-self.probabilities[wrong].max(axis=1), kind="stable")]


def make_table(rows: Sequence[Mapping[str, Any]]) -> Any:
    """A W&B table of text, with a column for each key of any row."""
    import wandb

    columns: Any = list(dict.fromkeys(key for row in rows for key in row))
    cells: Any = [[str(row.get(column, "")) for column in columns] for row in rows]
    return wandb.Table(columns=columns, data=cells)


def make_images(summary: Mapping[str, Any], examples: Examples) -> dict[str, Any]:
    """The confusion matrix as W&B's chart, the first test images, and the most confident errors."""
    import wandb

    names = examples.class_names
    media: dict[str, Any] = {}
    if "test/confusion_matrix" in summary:
        counts = np.asarray(summary["test/confusion_matrix"])
        cells: Any = [
            [names[i], names[j], int(count)]
            for (i, j), count in np.ndenumerate(counts)
            if count or counts.size <= MOST_CELLS
        ]
        fields = {column: column for column in ("Actual", "Predicted", "nPredictions")}
        table = wandb.Table(columns=[*fields], data=cells)
        title = {"title": "Confusion matrix, test"}
        media["test/confusion_matrix"] = wandb.plot_table("wandb/confusion_matrix/v1", table, fields, title)
    shown = {"test/samples": np.arange(len(examples.labels)), "test/misclassified": examples.errors()}
    for key, indices in shown.items():
        for index, image in zip(indices[:SHOWN], examples.show(indices[:SHOWN]), strict=True):
            true, predicted, probability = examples.describe(index)
            caption = f"true {true}, predicted {predicted} ({probability:.2f})"
            media.setdefault(key, []).append(wandb.Image(image, caption=caption))
    return media
