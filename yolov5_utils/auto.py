"""`import yolov5_utils.auto`, before or after YOLOv5 is imported, is `yolov5_utils.patch()`."""

from . import patch

patch()
