"""Writes docs/api.md from the signatures and docstrings of the public names:

python tools/api_page.py
"""

from __future__ import annotations

import inspect
import logging
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import yolov5_utils
from yolov5_utils.public import SECTIONS

HEAD = """\
# The API

Made by `python tools/api_page.py` from the code; a test compares the two, and runs the examples.
Every name can be imported from `yolov5_utils`; those of YOLOv5's file also from
`yolov5_utils.torch_utils`. [names.md](names.md) says how they differ from release to release,
[exactness.md](exactness.md) what of their results is exact. The examples begin with:

```python
import torch, yolov5_utils
from torch import nn
from yolov5_utils import ShardedEMA, fuse_model
from yolov5_utils.torch_utils import *
```
"""


class _Annotation:
    """Text that a signature shows without quotes, whatever Python's version."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def signature(value: Any) -> str:
    """(model: nn.Module, amount: float = 0.3) -> None, as the source has it."""
    found = inspect.signature(value)
    parameters = [
        parameter.replace(annotation=_plain(parameter.annotation))
        for parameter in found.parameters.values()
        if parameter.name != "self"
    ]
    result = found.return_annotation if inspect.isfunction(value) else found.empty
    return str(found.replace(parameters=parameters, return_annotation=_plain(result)))


def _plain(annotation: Any) -> Any:
    return _Annotation(annotation) if isinstance(annotation, str) else annotation


def _entry(name: str, value: Any) -> str:
    """A name with its signature, its docstring's sentences and its example."""
    if isinstance(value, logging.Logger):
        return f"### `{name}`\n\nThe logger `{value.name}`, of what YOLOv5 logs.\n"
    prose, _, example = (inspect.getdoc(value) or "").partition("\n>>> ")
    text = f"### `{name}`\n\n```python\n{_head(name, value)}\n```\n\n{_escaped(prose).strip()}\n"
    if example:
        text += f"\n```python\n>>> {example}\n```\n"
    return text + "".join(_method(name, *method) for method in _methods(value))


def _head(name: str, value: Any) -> str:
    """The signature, in several lines where it is long."""
    line = name + signature(value)
    if len(line) <= 100:
        return line
    inner, by_keyword = [], False
    for parameter in inspect.signature(value).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not by_keyword:
            inner.append("*")
            by_keyword = True
        if parameter.name != "self":
            inner.append(str(parameter.replace(annotation=_plain(parameter.annotation))))
    return f"{name}(\n" + "".join(f"    {p},\n" for p in inner) + ")" + line.rpartition(")")[2]


def _methods(value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, type):
        return []
    own = vars(value).items()
    return [(n, m) for n, m in own if inspect.isfunction(m) and (n == "__call__" or n[0] != "_")]


def _method(owner: str, name: str, value: Any) -> str:
    head = _head(name, value)
    return (
        f"\n#### `{owner}.{name}`\n\n```python\n{head}\n```\n\n{_escaped(inspect.getdoc(value))}\n"
    )


def _escaped(text: str | None) -> str:
    """A docstring as Markdown, in which stars and brackets mean themselves."""
    return re.sub(r"(`[^`]*`)|([*<])", lambda m: m[1] or "\\" + m[2], text or "")


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for title, names in SECTIONS.items():
        parts.append(f"## {title}\n")
        parts += [_entry(name, getattr(yolov5_utils, name)) for name in names]
    return "\n".join(parts)


if __name__ == "__main__":
    file = Path(__file__).resolve().parents[1] / "docs" / "api.md"
    file.write_text(page(), encoding="utf-8")
