"""PyTorch: tensors in memory, no DataLoader; eager or compiled, float32 or bfloat16 (channels last)."""

import torch
from torch import nn
from torch.nn import functional as F

import contender

OPTIMIZERS = {
    "sgd": lambda params, rate: torch.optim.SGD(params, lr=rate),
    "rmsprop": lambda params, rate: torch.optim.RMSprop(params, lr=rate, alpha=0.9),
    "adam": lambda params, rate: torch.optim.Adam(params, lr=rate),
}


def create(task: dict) -> nn.Module:
    layers: list[nn.Module] = []
    for channels in task["channels"]:
        for _ in range(task["convolutions"]):
            layers += [nn.LazyConv2d(channels, 3), nn.ReLU()]
        layers += [nn.MaxPool2d(2)]
    layers += [nn.Flatten()]
    for width in task["hidden"]:
        layers += [nn.LazyLinear(width), nn.ReLU()]
        layers += [nn.Dropout(task["dropout"])] if task["dropout"] else []
    model = nn.Sequential(*layers, nn.LazyLinear(1 if task["binary"] else 10))
    model(torch.zeros(1, 1, 28, 28))  # sets the lazy shapes
    return model.to(task.get("device", "cpu"), memory_format=torch.channels_last)


def build(task: dict, train: contender.Images, test: contender.Images) -> contender.Contender:
    torch.manual_seed(task["seed"])
    torch.set_num_threads(task["threads"])
    dtype, batch, binary = getattr(torch, task["dtype"]), task["batch_size"], task["binary"]
    device = task.get("device", "cpu")
    model = create(task).to(dtype)

    def tensors(split: contender.Images) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = torch.from_numpy(split.images).to(dtype), torch.from_numpy(split.labels)
        x = x[:, None].contiguous(memory_format=torch.channels_last) if task["channels"] else x.flatten(1)
        return x.to(device), (y.float()[:, None] if binary else y).to(device)

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        logits = model(x).float()
        return F.binary_cross_entropy_with_logits(logits, y) if binary else F.cross_entropy(logits, y)

    (x, y), (test_x, test_y) = tensors(train), tensors(test)
    optimizer = OPTIMIZERS[task["optimizer"]](model.parameters(), task["learning_rate"])
    step_loss = torch.compile(loss) if task["compiled"] else loss

    def fit(epochs: int, count: int) -> None:
        model.train()
        for _ in range(epochs):
            order = torch.randperm(count, device=device)
            for start in range(0, count, batch):
                rows = order[start : start + batch]
                whole = batch >= len(x)
                optimizer.zero_grad()
                step_loss(x if whole else x[rows], y if whole else y[rows]).backward()
                optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    @torch.no_grad()
    def evaluate() -> None:
        model.eval()
        total, correct = 0.0, 0
        for start in range(0, len(test_x), 500):
            logits = model(test_x[start : start + 500]).float()
            labels = test_y[start : start + 500]
            if binary:
                total += F.binary_cross_entropy_with_logits(logits, labels, reduction="sum").item()
                correct += ((logits > 0) == (labels > 0)).sum().item()
            else:
                total += F.cross_entropy(logits, labels, reduction="sum").item()
                correct += (logits.argmax(1) == labels).sum().item()

    return contender.Contender(fit, evaluate, lambda: sum(leaf.numel() for leaf in model.parameters()))


contender.serve(build, torch=torch.__version__)
