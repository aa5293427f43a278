"""`import yolov5_utils.auto`, before or after YOLOv5 is imported, is `yolov5_utils.patch()`.

Once a process, as Python runs a module once: after `unpatch()` it is `patch()` that patches again.
"""

from . import patch

patch()
