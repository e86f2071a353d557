"""scikit-learn: SGDClassifier (one image a step) for the neuron, MLPClassifier for a hidden layer."""

from typing import Any

import sklearn
from sklearn.linear_model import SGDClassifier
from sklearn.neural_network import MLPClassifier

import contender


def size(*leaves: Any) -> int:
    return sum(leaf.size for leaf in leaves)


def build(task: dict, train: contender.Images, test: contender.Images) -> contender.Contender:
    images, labels, rate = train.images.reshape(len(train.images), -1), train.labels, task["learning_rate"]
    if not task["hidden"]:
        model = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=rate, alpha=0)
    else:
        options = {"solver": task["optimizer"], "batch_size": task["batch_size"]}
        model = MLPClassifier(task["hidden"], **options, learning_rate_init=rate, alpha=0)
    classes = sorted(set(labels.tolist()))

    def fit(epochs: int, count: int) -> None:
        for _ in range(epochs):
            model.partial_fit(images[:count], labels[:count], classes=classes)

    def evaluate() -> None:
        model.score(test.images.reshape(len(test.images), -1), test.labels)

    def parameters() -> int:
        if isinstance(model, SGDClassifier):
            return size(model.coef_, model.intercept_)
        return size(*model.coefs_, *model.intercepts_)

    return contender.Contender(fit, evaluate, parameters)


contender.serve(build, sklearn=sklearn.__version__)
