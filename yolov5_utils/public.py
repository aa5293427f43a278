"""The public names of the package, as dir() and docs/api.md list them. Must not import torch."""

from __future__ import annotations

SECTIONS = {
    "YOLOv5 and ultralytics as they are": ("patch", "unpatch", "is_patched"),
    "What runs where": ("calls", "explain", "info"),
    "Hot paths": (
        "ModelEMA",
        "fuse_conv_and_bn",
        "fuse_model",
        "prune",
        "scale_img",
        "sparsity",
        "time_sync",
        "time_synchronized",
    ),
    "Several processes": ("ShardedEMA", "smart_DDP", "torch_distributed_zero_first"),
    "Devices and files": (
        "date_modified",
        "device_count",
        "git_describe",
        "init_torch_seeds",
        "logger",
        "select_device",
    ),
    "Looking at models": (
        "copy_attr",
        "de_parallel",
        "find_modules",
        "intersect_dicts",
        "is_parallel",
        "model_info",
        "profile",
    ),
    "Training": (
        "EarlyStopping",
        "initialize_weights",
        "load_classifier",
        "reshape_classifier_output",
        "smartCrossEntropyLoss",
        "smart_amp_autocast",
        "smart_hub_load",
        "smart_inference_mode",
        "smart_optimizer",
        "smart_resume",
    ),
}
NAMES = tuple(name for names in SECTIONS.values() for name in names)
