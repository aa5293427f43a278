"""The known forms of YOLOv5's and ultralytics' hot callables: what a replacement must keep of each.

Digests of syntax trees (see fingerprint.digest) lead to forms; no source is kept. `python
tools/fingerprints.py` prints the digests of any file or repository. Must not import torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class UpdateForm(NamedTuple):
    """One known form of ModelEMA.update."""

    unwrap: str  # the client's helper that tells or strips wrappers of the model
    switch: str | None = None  # the attribute that switches the average off


class SparsityForm(NamedTuple):
    """One known form of sparsity: what its zeros are added up in."""

    exact: bool  # True: int64; False: the default floating dtype, rounding above 2**24 in float32


class PruneForm(NamedTuple):
    """One known form of prune: how it tells the share of zeros, which is then {0:.3g} or %.3g."""

    logs: bool  # one text through LOGGER, formatted by the tensor; else two are printed


class FuseForm(NamedTuple):
    """One known form of fuse_conv_and_bn, all of which scale the weights by a diagonal matrix."""

    dilation: bool = True  # False: the result has dilation 1, whatever the convolution has
    in_place: bool = False  # True: the convolution itself becomes the fused one


class ScaleForm(NamedTuple):
    """The one behaviour of scale_img in every release."""


class TimeForm(NamedTuple):
    """The one behaviour of time_synchronized and time_sync that C has."""


class InfoForm(NamedTuple):
    """The one behaviour of YOLOv5's model_info: thop.profile(deepcopy(model), …) of one image."""


class Left(NamedTuple):
    """A known form that is left to the client, and why."""

    reason: str


Form = UpdateForm | SparsityForm | PruneForm | FuseForm | ScaleForm | TimeForm | InfoForm | Left

_LERP = "its average is a lerp over lists of tensors, already one call of torch an update"
_SCALED = "it scales the weights without a matrix product; its roundings are not in C"
_CLOCK = "it takes a device and may read another clock"

_UPDATE: Mapping[str, Form] = {
    "f939b2285dd7": UpdateForm("is_parallel"),
    "4d6d47b14fe5": UpdateForm("is_parallel"),
    "fdf47482408c": UpdateForm("de_parallel"),
    "5766e28a241d": UpdateForm("de_parallel"),
    "39c10a15b50b": UpdateForm("de_parallel"),
    "5c6cf8f73c3b": UpdateForm("de_parallel", switch="enabled"),
    "0427ffce5f66": UpdateForm("unwrap_model", switch="enabled"),
    "b544ed46ce4c": Left(_LERP),
    "18f52f78f403": Left(_LERP),
    "da56f7612789": Left(_LERP),
}
_SPARSITY: Mapping[str, Form] = {
    "5cdde3b1869b": SparsityForm(exact=False),
    "11433181328e": SparsityForm(exact=True),
}
_PRUNE: Mapping[str, Form] = {
    "6325c2aed227": PruneForm(logs=False),
    "105b5fd26e46": PruneForm(logs=True),
    "e5bcd1210edf": PruneForm(logs=True),
}
_FUSE: Mapping[str, Form] = {
    "945064266bfe": FuseForm(dilation=False),
    "2eebdec8d21f": FuseForm(dilation=False),
    "af8f228b9fba": FuseForm(),
    "06c256a13d4a": FuseForm(),
    "23636508f17e": FuseForm(),
    "90748bd22406": FuseForm(),
    "1ed1767f581a": FuseForm(in_place=True),
    "d1eaacc67495": FuseForm(in_place=True),
    "72e31befa713": Left(_SCALED),
    "24c55edd849f": Left(_SCALED),
    "6e51af6e62b0": Left(_SCALED),
}
_SCALE_IMG: Mapping[str, Form] = {
    "d5a05973d1a5": ScaleForm(),
    "7ab7ccbd517d": ScaleForm(),
    "31bf9453f86a": ScaleForm(),
}
_TIME: Mapping[str, Form] = {
    "91e46f49560b": TimeForm(),
    "0d059710de6d": TimeForm(),
    "902718553a16": TimeForm(),
    "f500bcc884fd": Left(_CLOCK),
    "cf349fd0ce20": Left(_CLOCK),
}
_INFO: Mapping[str, Form] = {
    "1e966bfc431d": InfoForm(),
    "6b09ca6b4c33": InfoForm(),
    "fd888e656f7e": InfoForm(),
    "1213d77f6682": InfoForm(),
    "f95dcb0fe15e": InfoForm(),
    "f0d7899931c8": InfoForm(),
    "cce600cf7e5e": InfoForm(),
    "4ffa383e0ec4": InfoForm(),
    "8195d37c0639": InfoForm(),
    "addc85707a1a": InfoForm(),
    "7cde57eb6e20": InfoForm(),
}


class Hot(NamedTuple):
    """A hot callable: the hot path of this package that does its work, and its known forms."""

    operation: str
    forms: Mapping[str, Form]
    of_yolov5: bool = False  # True: ultralytics has another thing of that name


HOT: Mapping[str, Hot] = {
    "ModelEMA.update": Hot("ema", _UPDATE),
    "sparsity": Hot("sparsity", _SPARSITY),
    "prune": Hot("prune", _PRUNE),
    "fuse_conv_and_bn": Hot("fuse", _FUSE),
    "scale_img": Hot("scale_img", _SCALE_IMG),
    "time_synchronized": Hot("time_synchronized", _TIME),
    "time_sync": Hot("time_synchronized", _TIME),
    "model_info": Hot("model_info", _INFO, of_yolov5=True),  # no hot path: helpers/counting.py
}

# The releases as people know them, and the first and the last one with a text (what is in none was
# written between two): `python tools/fingerprints.py --git REPOSITORY` lists them.
RELEASES = {
    "YOLOv5": ("4.0", "5.0", "6.0", "6.1", "6.2", "7.0", "main"),
    "ultralytics": ("8.0", "8.3", "8.4"),
}
_SPANS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "YOLOv5": {
        "f939b2285dd7": ("4.0", "6.0"),
        "4d6d47b14fe5": ("6.0", "6.1"),
        "fdf47482408c": ("6.1", "6.1"),
        "5766e28a241d": ("6.2", "6.2"),
        "39c10a15b50b": ("7.0", "main"),
        "5cdde3b1869b": ("4.0", "6.0"),
        "11433181328e": ("6.1", "main"),
        "6325c2aed227": ("4.0", "6.1"),
        "105b5fd26e46": ("6.2", "7.0"),
        "e5bcd1210edf": ("main", "main"),
        "945064266bfe": ("4.0", "4.0"),
        "2eebdec8d21f": ("5.0", "6.2"),
        "af8f228b9fba": ("7.0", "main"),
        "d5a05973d1a5": ("4.0", "6.0"),
        "7ab7ccbd517d": ("6.1", "6.1"),
        "31bf9453f86a": ("6.2", "7.0"),
        "0d059710de6d": ("4.0", "5.0"),
        "902718553a16": ("6.0", "7.0"),
        "1e966bfc431d": ("4.0", "4.0"),
        "6b09ca6b4c33": ("5.0", "5.0"),
        "fd888e656f7e": ("5.0", "6.0"),
        "1213d77f6682": ("6.0", "6.0"),
        "f95dcb0fe15e": ("6.1", "6.1"),
        "f0d7899931c8": ("6.1", "6.2"),
        "cce600cf7e5e": ("6.1", "6.2"),
        "4ffa383e0ec4": ("6.1", "6.2"),
        "8195d37c0639": ("6.2", "6.2"),
        "addc85707a1a": ("7.0", "7.0"),
        "7cde57eb6e20": ("main", "main"),
    },
    "ultralytics": {
        "39c10a15b50b": ("8.0", "8.0"),
        "5c6cf8f73c3b": ("8.0", "8.3"),
        "0427ffce5f66": ("8.3", "8.4"),
        "b544ed46ce4c": ("8.4", "8.4"),
        "18f52f78f403": ("8.4", "8.4"),
        "da56f7612789": ("8.4", "8.4"),
    },
}


def release_of(family: str, digests: Iterable[str]) -> str:
    """The releases that a file with these texts may be of: "YOLOv5 6.2", "YOLOv5 7.0 to main"."""
    releases = RELEASES[family]
    spans = [_SPANS[family][digest] for digest in digests if digest in _SPANS[family]]
    if not spans:
        return f"{family}, release unknown"
    first = max(releases.index(first) for first, _ in spans)
    last = min(releases.index(last) for _, last in spans)
    first, last = sorted((first, last))  # the other way round between two releases
    return f"{family} {' to '.join(dict.fromkeys((releases[first], releases[last])))}"
