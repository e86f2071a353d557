"""Named choices, numbers and a data set -> the Plan of one run: Spec, Hyper and the rest."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from mnistjax import config
from mnistjax.augment import check_augmentation
from mnistjax.checks import CLASS_WEIGHTS, FREEZE, SHUFFLE, check_training, check_value, show_shape, whole
from mnistjax.config import (
    DEFAULT_STOPPING,
    ConfigError,
    Hyper,
    Options,
    Plan,
    Spec,
    Stopping,
    shorten,
)
from mnistjax.data import Dataset
from mnistjax.models import create_model, find_model, look_inside
from mnistjax.models import model_options as list_options
from mnistjax.models.layers import Model, Standard
from mnistjax.optim import check_numbers, hyper_names, make_hyper
from mnistjax.parts import check_parts

NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Choice:
    """A model, an optimizer, a schedule and an augmentation, checked as far as possible without data."""

    model: str
    model_options: Options
    optimizer: str
    schedule: str
    numbers: Hyper  # but a schedule's durations are still text, such as "30%"


class Start(NamedTuple):
    """Trained variables to start from."""

    variables: Mapping[str, Any]  # as `model.init` nests them; those that are missing are initialised
    sha256: str  # of the variables
    name: str  # of the trained model
    model: str  # words of the command for its architecture: "model=mlp model.hidden=[64]"
    new_head: bool = False  # whether its last layer is left out
    options: Options = ()  # of its architecture


def choose(
    *,
    model: str = "cnn",
    model_options: Mapping[str, Any] = NOTHING,
    optimizer: str = "adam",
    optimizer_options: Mapping[str, Any] = NOTHING,
    schedule: str = "one_cycle",
    schedule_options: Mapping[str, Any] = NOTHING,
    augment_options: Mapping[str, Any] = NOTHING,
) -> Choice:
    """The Choice of these names and options; ConfigError if a name, an option or a value is wrong."""
    numbers = check_numbers(optimizer, optimizer_options, schedule, schedule_options)
    if augmentation := check_augmentation(augment_options):
        numbers = {**numbers, "augment": augmentation}
    module = create_model(model, **model_options)
    options = {option: getattr(module, option) for option in list_options(model)}
    if isinstance(module, Model) and module.standardize is False:
        del options["standardize"]  # so that the Specs of models without it are those of before it existed
    return Choice(model, config.freeze(options), optimizer, schedule, numbers)


def make_plan(
    data: Dataset,
    choice: Choice | None = None,
    *,
    batch_size: int | Literal["all"] = 64,
    micro_batch: int | Literal["auto"] = "auto",
    shuffle: Literal["own", "shared"] = "own",
    stopping: Stopping = DEFAULT_STOPPING,
    class_weights: Literal["balanced"] | None = None,
    freeze: str | Sequence[str] = (),
    start: Start | None = None,
    positive: int | None = None,
    seed: int = 0,
    **options: Any,
) -> Plan:
    """The Plan of a run on a data set; ConfigError if a value is wrong or does not fit the data.

    Without a `choice`, `options` are the arguments of `choose`: `model="mlp", model_options={"hidden": 64}`.
    For a binary task, `data` is relabelled by `to_binary`, and `positive` is the positive class.
    `class_weights="balanced"`: each class weighs the same in the gradient, not in the recorded values.
    `freeze` are patterns of parts that are not trained, "Conv*" or "*/bias"; `start_from` returns a `start`.
    """
    check_training(seed, stopping)
    check_value("train.shuffle", shuffle, SHUFFLE)
    check_value("train.class_weights", class_weights, CLASS_WEIGHTS)
    check_value("train.freeze", freeze, FREEZE)
    choice = choice or choose(**options)
    count, outputs = len(data.train.images), data.num_classes if positive is None else 1
    model_options = fill_options(choice, data)
    model = find_model(choice.model)(num_classes=outputs, **dict(model_options))
    batch, micro_batch = _fit_batches(data, model, batch_size, micro_batch)
    steps = -(-count // batch)  # per epoch
    hyper = make_hyper(choice.numbers, choice.schedule, steps_per_epoch=steps, epochs=stopping.epochs)
    hyper = {**hyper, "loss": {"class_weights": balance_classes(data)}} if class_weights else hyper
    spec = Spec(
        model=choice.model,
        model_options=model_options,
        optimizer=choice.optimizer,
        schedule=choice.schedule,
        hyper_names=hyper_names(hyper),
        task="multiclass" if positive is None else "binary",
        num_classes=outputs,
        train_count=count,
        batch_size=batch,
        micro_batch=micro_batch,
        shuffle=shuffle,
        image_shape=data.image_shape,
        freeze=tuple(sorted({freeze} if isinstance(freeze, str) else {*freeze})),
    )
    return Plan(spec, hyper, seed, stopping, positive, data.name, data.sha256, _check_fit(spec, model, start))


def _check_fit(spec: Spec, model: Any, start: Start | None) -> str | None:
    """The SHA-256 of a start, if there is one.

    ConfigError unless the model returns the logits of the task, and has the parts and the variables named.
    """
    found = look_inside(model, spec.image_shape).logits
    if found != (1, spec.num_classes):
        raise ConfigError(
            f"{spec.model} must return an array of {spec.num_classes} logits for each image, "
            f"(B, {spec.num_classes}); for one image it returns {'no array' if found is None else found}"
        )
    check_parts(spec, model)
    if start is None:
        return None
    note = f"its model is {start.model}, for its own image size"
    check_start(spec, model, start.variables, f"init_from={start.name}", note)
    _check_options(spec, start)
    return start.sha256


def _check_options(spec: Spec, start: Start) -> None:
    """Raises ConfigError if a start's model computes something else, except for its rates of dropout."""
    defaults = list_options(spec.model)
    own, others = ({**defaults, **dict(options)} for options in (spec.model_options, start.options))
    for option, default in defaults.items():
        one, other = own[option], others[option]
        if option == "standardize":  # each has the numbers of its own data
            one, other = bool(one), bool(other)
        if one != other and type(default) is not float:
            change = f"its {option} is {shorten(other)}, {shorten(one)} here"
            raise ConfigError(f"init_from={start.name} does not fit: {change}; its model is {start.model}")


def check_start(spec: Spec, model: Any, variables: Any, source: str, note: str) -> None:
    """Raises ConfigError unless the model has these variables, nested as by `model.init`."""
    if not isinstance(variables, Mapping):
        kind = type(variables).__name__
        raise ConfigError(f"{source} must be variables, such as start_from(...).variables; got a {kind}")
    shapes = look_inside(model, spec.image_shape).variables
    given: Any = flatten_dict(variables, sep="/")
    for path, leaf in given.items():
        if shapes.get(path) != np.shape(leaf):
            here = f"{shapes[path]} here" if path in shapes else f"not in this {spec.model}"
            raise ConfigError(f"{source} does not fit: its {path} is {np.shape(leaf)}, {here}; {note}")


def fill_options(choice: Choice, data: Dataset) -> Options:
    """The options of the model, with numbers in place of `standardize=true`."""
    options = dict(choice.model_options)
    if options.get("standardize") is True and issubclass(find_model(choice.model), Model):
        options["standardize"] = measure_channels(data)
    return config.freeze(options)


@functools.lru_cache(8)  # 0.1 s for MNIST; the jobs of a sweep share a few data sets
def measure_channels(data: Dataset) -> Standard:
    """The means and deviations of the channels over the training images, as pixels in [0, 1].

    They are rounded to 6 digits, from exact sums, so that they are equal everywhere; 1 for a deviation of 0.
    """
    channels, means, deviations = data.image_shape[2], list[float](), list[float]()
    pixels = data.train.images.reshape(len(data.train.images), -1, channels)
    for channel in range(channels):
        counts = np.zeros(256, np.int64)
        for start in range(0, len(pixels), 1000):  # images; `bincount` copies them as int64
            counts += np.bincount(pixels[start : start + 1000, :, channel].ravel(), minlength=256)
        number, first, second = (int(np.sum(counts * np.arange(256) ** power)) for power in range(3))
        means.append(round(first / (255 * number), 6))
        deviation = round(math.sqrt(number * second - first**2) / (255 * number), 6)
        deviations.append(deviation or 1.0)
    return tuple(means), tuple(deviations)


def balance_classes(data: Dataset) -> tuple[float, ...]:
    """The weights n / (K n_c) of K classes with n_c of n training images: their mean over the images is 1.

    ConfigError if a class has no training image.
    """
    counts = data.class_counts["train"]
    if 0 in counts:
        name = shorten(data.class_names[counts.index(0)])
        raise ConfigError(
            f"train.class_weights=balanced: {data.name} has no training image of class {name!r}"
        )
    return tuple(sum(counts) / (len(counts) * count) for count in counts)


def _fit_batches(
    data: Dataset, model: Any, batch_size: int | Literal["all"], micro_batch: int | Literal["auto"]
) -> tuple[int, int]:
    """The sizes of a batch and a micro-batch as numbers; ConfigError if the training set has fewer images."""
    count = len(data.train.images)
    batch = count if batch_size == "all" else batch_size
    if not whole(1, highest=count).holds(config.to_plain(batch)):
        raise ConfigError(
            f"train.batch_size must be 'all' or a whole number from 1 to {count}, the training images of "
            f"{data.name}; got {shorten(batch)}"
        )
    largest = _largest_micro_batch(model, data.image_shape)  # also refuses a model that can't take the images
    micro_batch = min(batch, largest) if micro_batch == "auto" else micro_batch
    if not whole(1, highest=batch).holds(config.to_plain(micro_batch)):
        raise ConfigError(
            f"train.micro_batch must be 'auto' or from 1 to train.batch_size, {batch}; "
            f"got {shorten(micro_batch)}"
        )
    return batch, micro_batch


def _largest_micro_batch(module: Any, image_shape: tuple[int, int, int]) -> int:
    """The most images that one gradient should take.

    On a CPU the model's `cpu_micro_batch`, so that its intermediates stay in the cache; elsewhere thousands.
    A model with batch statistics has no limit, because these need the whole batch.
    """
    if look_inside(module, image_shape).collections != {"params"}:
        return 2**31
    return getattr(module, "cpu_micro_batch", 1024) if jax.default_backend() == "cpu" else 8192


def check_fits(spec: Spec, data: Dataset) -> None:
    """ConfigError if a data set is not the one that a Spec was made for."""
    if len(data.train.images) != spec.train_count:
        raise ConfigError(
            f"the Spec is for {spec.train_count} training images; {data.name} has {len(data.train.images)}"
        )
    if data.image_shape != spec.image_shape:
        raise ConfigError(
            f"the Spec is for images of {show_shape(spec.image_shape)}; "
            f"{data.name} has {show_shape(data.image_shape)}"
        )
    if data.num_classes != spec.classes:
        raise ConfigError(f"the Spec is for {spec.classes} classes; {data.name} has {data.num_classes}")
