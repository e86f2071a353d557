"""Keras 3 on TensorFlow or JAX, with the setting `steps_per_execution`."""

import os

import contender

os.environ["KERAS_BACKEND"] = contender.workload()["backend"]
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
if os.environ["KERAS_BACKEND"] == "tensorflow":
    import tensorflow as library

    library.config.threading.set_intra_op_parallelism_threads(contender.workload()["threads"])
else:
    import jax as library
import keras

layers, losses = keras.layers, keras.losses
OPTIMIZERS = {"sgd": keras.optimizers.SGD, "rmsprop": keras.optimizers.RMSprop, "adam": keras.optimizers.Adam}


def create(task: dict) -> list:
    stack = []
    for channels in task["channels"]:
        stack += [layers.Conv2D(channels, 3, activation="relu") for _ in range(task["convolutions"])]
        stack += [layers.MaxPooling2D()]
    stack += [layers.Flatten()]
    for width in task["hidden"]:
        stack += [layers.Dense(width, activation="relu")]
        stack += [layers.Dropout(task["dropout"])] if task["dropout"] else []
    return [*stack, layers.Dense(1 if task["binary"] else 10)]


def build(task: dict, train: contender.Images, test: contender.Images) -> contender.Contender:
    keras.utils.set_random_seed(task["seed"])
    binary = task["binary"]

    def arrays(split: contender.Images) -> tuple:
        images = split.images
        images = images[..., None] if task["channels"] else images.reshape(len(images), -1)
        return images, split.labels[:, None].astype("float32") if binary else split.labels.astype("int32")

    (x, y), (test_x, test_y) = arrays(train), arrays(test)
    model = keras.Sequential([keras.Input(x.shape[1:]), *create(task)])
    loss = losses.BinaryCrossentropy if binary else losses.SparseCategoricalCrossentropy
    model.compile(
        loss=loss(from_logits=True),
        optimizer=OPTIMIZERS[task["optimizer"]](task["learning_rate"]),
        metrics=["accuracy"] if task["evaluates"] else None,
        steps_per_execution=task["steps_per_execution"],
    )

    def fit(epochs: int, count: int) -> None:
        model.fit(x[:count], y[:count], batch_size=task["batch_size"], epochs=epochs, verbose=0)

    def evaluate() -> None:
        model.evaluate(test_x, test_y, batch_size=500, verbose=0)

    return contender.Contender(fit, evaluate, model.count_params)


contender.serve(build, keras=keras.__version__, **{library.__name__: library.__version__})
