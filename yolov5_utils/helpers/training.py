"""What a training run sets up around its model, and how it stops and resumes.

Must not import torchvision until it is needed, nor any module of YOLOv5 itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .device import logger, require

_INPLACE_ACTIVATIONS = (nn.Hardswish, nn.LeakyReLU, nn.ReLU, nn.ReLU6)
_BLUE_BOLD, _PLAIN = "\033[34m\033[1m", "\033[0m"  # what YOLOv5's colorstr puts around a word


def initialize_weights(model: nn.Module) -> None:
    """Give every BatchNorm2d YOLOv5's eps and momentum, and make its activations work in place.

    Exact types alone (no subclass, no SyncBatchNorm, no SiLU); weights stay as they are.
    Source: YOLOv5 5.0 (6.1 and later also make SiLU work in place).

    >>> model = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU())
    >>> initialize_weights(model)
    >>> model[0].eps, model[1].inplace
    (0.001, True)
    """
    for module in model.modules():
        kind = type(module)
        if kind is nn.BatchNorm2d:
            module.eps = 1e-3
            module.momentum = 0.03
        elif kind in _INPLACE_ACTIVATIONS:
            module.inplace = True


def load_classifier(name: str = "resnet101", n: int = 2) -> Any:
    """A torchvision classifier with ImageNet weights and a new, zero, last layer of `n` classes.

    `name` is a model of torchvision.models whose last layer is `fc` (ResNet, ResNeXt, ...);
    weights are downloaded where torchvision has not cached them. The input it expects is RGB,
    (batch, 3, 224, 224), scaled to 0..1, less ImageNet's mean (0.485, 0.456, 0.406), over its
    standard deviation (0.229, 0.224, 0.225).

    KeyError for a name torchvision lacks, AttributeError for a model without `fc`,
    ModuleNotFoundError without torchvision. Source: YOLOv5 5.0.

    >>> model = load_classifier("resnet50", n=2)  # doctest: +SKIP
    """
    from torchvision import models

    build = models.__dict__[name]
    if "weights" in inspect.signature(build).parameters:
        # Those that `pretrained=True` stands for; DEFAULT would be newer ones for some models.
        model = build(weights="IMAGENET1K_V1")
    else:  # torchvision < 0.13
        model = build(pretrained=True)

    if not hasattr(model, "fc"):
        raise AttributeError(
            f"load_classifier: name={name!r} has no last layer 'fc'; "
            "allowed are models that have one, such as 'resnet101'"
        )
    features = model.fc.weight.shape[1]
    model.fc.bias = nn.Parameter(torch.zeros(n))
    model.fc.weight = nn.Parameter(torch.zeros(n, features))
    model.fc.out_features = n
    return model


def reshape_classifier_output(model: nn.Module, n: int = 1000) -> None:
    """Replace the last layer of a classifier by a new one with `n` outputs, unless it has `n`.

    The last child of `model` (of `model.model`, where it has one) is YOLOv5's Classify head, whose
    `linear` is replaced, an nn.Linear, or an nn.Sequential, whose last nn.Linear is replaced or,
    where it has none, its last nn.Conv2d (with its kernel size, stride and bias, no padding). The
    new layer has torch's initial weights, on the CPU, in the default dtype. A model that ends in
    anything else stays as it is.

    IndexError for a model without children. Source: YOLOv5 of 2026 (6.2 and 7.0 take the first
    layer of a Sequential).

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 1000))
    >>> reshape_classifier_output(model, n=2)
    >>> model[1].out_features
    2
    """
    owner: Any = model.model if hasattr(model, "model") else model
    name, last = list(owner.named_children())[-1]
    if any(kind.__name__ == "Classify" for kind in type(last).__mro__):
        owner, name, last = last, "linear", last.linear
    elif isinstance(last, nn.Sequential):
        owner = last
        name, last = _last_of(nn.Linear, owner) or _last_of(nn.Conv2d, owner) or (name, last)
    elif not isinstance(last, nn.Linear):
        return

    if isinstance(last, nn.Linear) and last.out_features != n:
        setattr(owner, name, nn.Linear(last.in_features, n))
    elif isinstance(last, nn.Conv2d) and last.out_channels != n:
        bias = last.bias is not None
        layer = nn.Conv2d(last.in_channels, n, last.kernel_size, last.stride, bias=bias)
        setattr(owner, name, layer)


def _last_of(kind: type, sequence: nn.Sequential) -> tuple[str, Any] | None:
    """Name and layer of the last one of exactly this kind; None where there is none."""
    return next(
        (
            (name, layer)
            for name, layer in reversed(sequence._modules.items())
            if type(layer) is kind
        ),
        None,
    )


def smartCrossEntropyLoss(label_smoothing: float = 0.0) -> nn.CrossEntropyLoss:
    """nn.CrossEntropyLoss with label smoothing. Source: YOLOv5 6.2.

    >>> smartCrossEntropyLoss(0.1).label_smoothing
    0.1
    """
    return nn.CrossEntropyLoss(label_smoothing=label_smoothing)


def smart_inference_mode(torch_1_9: bool = True) -> Callable[[Any], Any]:
    """A decorator that runs a function in torch.inference_mode (torch.no_grad for False).

    Source: YOLOv5 6.2, which finds the default from torch's version.

    >>> @smart_inference_mode()
    ... def run():
    ...     return torch.is_inference_mode_enabled()
    >>> run()
    True
    """
    return torch.inference_mode() if torch_1_9 else torch.no_grad()


def smart_amp_autocast(enabled: bool = True, device: str = "cuda") -> Any:
    """The context of torch's automatic mixed precision for a kind of device.

    Source: YOLOv5 of 2026, which took `enabled` alone (CUDA) before it took both.

    >>> with smart_amp_autocast(True, device="cpu"):
    ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    torch.bfloat16
    """
    return torch.amp.autocast(device, enabled=enabled)


def smart_optimizer(
    model: nn.Module,
    name: str = "Adam",
    lr: float = 0.001,
    momentum: float = 0.9,
    decay: float = 1e-5,
) -> torch.optim.Optimizer:
    """An optimizer with YOLOv5's three groups of parameters; logs how many each group has.

    The groups, in order: every `bias`, without weight decay; all parameters that are in neither
    other group, with `decay`; the `weight` of normalisation layers, without. Within a group
    parameters stand in the order of model.modules(). `name` is 'Adam' or 'AdamW' (`momentum` is
    beta 1, beta 2 is 0.999), 'RMSProp' or 'SGD' (Nesterov).

    NotImplementedError for another name; ValueError from torch for a model without a bias.
    Source: YOLOv5 7.0 (6.2 leaves out parameters not named weight or bias).

    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    >>> [len(group["params"]) for group in smart_optimizer(model, "SGD").param_groups]
    [2, 1, 1]
    """
    biases: list[Tensor] = []
    decayed: list[Tensor] = []
    norms: list[Tensor] = []
    normalisations = tuple(kind for name, kind in vars(nn).items() if "Norm" in name)
    for module in model.modules():
        for parameter_name, parameter in module.named_parameters(recurse=False):
            if parameter_name == "bias":
                biases.append(parameter)
            elif parameter_name == "weight" and isinstance(module, normalisations):
                norms.append(parameter)
            else:
                decayed.append(parameter)

    optimizer: torch.optim.Optimizer
    if name == "Adam":
        optimizer = torch.optim.Adam(biases, lr=lr, betas=(momentum, 0.999))
    elif name == "AdamW":
        optimizer = torch.optim.AdamW(biases, lr=lr, betas=(momentum, 0.999), weight_decay=0.0)
    elif name == "RMSProp":
        optimizer = torch.optim.RMSprop(biases, lr=lr, momentum=momentum)
    elif name == "SGD":
        optimizer = torch.optim.SGD(biases, lr=lr, momentum=momentum, nesterov=True)
    else:
        raise NotImplementedError(f"Optimizer {name} not implemented.")
    optimizer.add_param_group({"params": decayed, "weight_decay": decay})
    optimizer.add_param_group({"params": norms, "weight_decay": 0.0})
    logger.info(
        f"{_BLUE_BOLD}optimizer:{_PLAIN} {type(optimizer).__name__}(lr={lr}) with parameter groups "
        f"{len(norms)} weight(decay=0.0), {len(decayed)} weight(decay={decay}), {len(biases)} bias"
    )
    return optimizer


def smart_hub_load(repo: str = "ultralytics/yolov5", model: str = "yolov5s", **kwargs: Any) -> Any:
    """torch.hub.load without its questions, and once more with a fresh download when it fails.

    `kwargs` go to torch.hub.load; whatever the second try raises passes through.
    Source: YOLOv5 6.2 to 7.0.

    >>> model = smart_hub_load("ultralytics/yolov5", "yolov5s")  # doctest: +SKIP
    """
    answers = {"skip_validation": True, "trust_repo": True}  # validation meets GitHub's rate limit
    known = inspect.signature(torch.hub.load).parameters
    kwargs.update((key, answer) for key, answer in answers.items() if key in known)
    try:
        return torch.hub.load(repo, model, **kwargs)
    except Exception:
        return torch.hub.load(repo, model, **{**kwargs, "force_reload": True})


def smart_resume(
    ckpt: Mapping[str, Any],
    optimizer: torch.optim.Optimizer,
    ema: Any = None,
    weights: str = "yolov5s.pt",
    epochs: int = 300,
    resume: bool = True,
) -> tuple[float, int, int]:
    """Put a checkpoint's state into `optimizer` and `ema`; best fitness, first epoch, epochs.

    `ckpt` has the keys 'epoch', 'optimizer' (a state dict, or None), 'best_fitness', and for `ema`
    (a ModelEMA) 'ema' (a model, converted to float32 in place) and 'updates'. `weights` is the
    checkpoint's name in messages. `epochs` counts from epoch 0 when resuming; a finished training
    that goes on without `resume` gets that many more.

    AssertionError where `resume` is asked of a finished training (epoch −1); nothing has changed
    then. Source: YOLOv5 6.2.

    >>> optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    >>> checkpoint = {"epoch": 4, "optimizer": optimizer.state_dict(), "best_fitness": 0.5}
    >>> smart_resume(checkpoint, optimizer, epochs=10)
    (0.5, 5, 10)
    """
    start_epoch = ckpt["epoch"] + 1
    require(
        not resume or start_epoch > 0,
        f"{weights} training to {epochs} epochs is finished, nothing to resume.\n"
        f"Start a new training without --resume, i.e. 'python train.py --weights {weights}'",
    )
    best_fitness = 0.0
    if ckpt["optimizer"] is not None:
        optimizer.load_state_dict(ckpt["optimizer"])
        best_fitness = ckpt["best_fitness"]
    if ema and ckpt.get("ema"):
        ema.ema.load_state_dict(ckpt["ema"].float().state_dict())
        ema.updates = ckpt["updates"]
    if resume:
        logger.info(
            f"Resuming training from {weights} from epoch {start_epoch} to {epochs} total epochs"
        )
    if epochs < start_epoch:
        logger.info(
            f"{weights} has been trained for {ckpt['epoch']} epochs. "
            f"Fine-tuning for {epochs} more epochs."
        )
        epochs += ckpt["epoch"]
    return best_fitness, start_epoch, epochs


class EarlyStopping:
    """Tells when a training has not improved for `patience` epochs (0 or None: never).

    `best_fitness` and `best_epoch` are of the best epoch so far, the first one among equally good
    ones: a plateau, of zeros too, is no improvement. `possible_stop` is True when the next epoch
    may be the last. Fitness is from 0 to 1 in YOLOv5; of any above −1 the first is an improvement.
    Source: YOLOv5 6.1, as mended in July 2026 (until then a plateau never stopped).

    >>> stopper = EarlyStopping(patience=2)
    >>> [stopper(epoch, fitness) for epoch, fitness in enumerate([0.5, 0.4, 0.3])]
    [False, False, True]
    """

    def __init__(self, patience: float | None = 30) -> None:
        self.best_fitness = -1.0  # below every fitness, so that the first epoch is the best so far
        self.best_epoch = 0
        self.patience = patience or float("inf")
        self.possible_stop = False

    def __call__(self, epoch: int, fitness: float) -> bool:
        """True, with a message, when training should stop after `epoch` (from 0, ascending)."""
        if fitness > self.best_fitness:
            self.best_epoch = epoch
            self.best_fitness = fitness
        without_improvement = epoch - self.best_epoch
        self.possible_stop = without_improvement >= self.patience - 1
        stop = without_improvement >= self.patience
        if stop:
            logger.info(
                f"Stopping training early as no improvement observed in last {self.patience} "
                f"epochs. Best results observed at epoch {self.best_epoch}, best model saved as "
                f"best.pt.\nTo update EarlyStopping(patience={self.patience}) pass a new patience "
                "value, i.e. `python train.py --patience 300` or use `--patience 0` to disable "
                "EarlyStopping."
            )
        return stop
