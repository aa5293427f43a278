"""What a C extension that cannot be loaded calls for. Must not import torch: a client runs next."""

from __future__ import annotations


def for_broken_extension(error: ImportError) -> str:
    """One line for `error`, which the import of the extension raised: what is wrong, what to do."""
    return (
        f"the C extension yolov5_utils._C cannot be loaded ({error}). "
        "Remedy: reinstall it for this interpreter with "
        "'pip install --force-reinstall --no-deps yolov5-torch-utils', or in a checkout "
        "'pip install --no-build-isolation --no-deps -e .' (needs a C compiler and Python headers)."
    )
