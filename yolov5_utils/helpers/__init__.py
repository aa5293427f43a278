"""The names of YOLOv5's torch_utils that are not hot paths, in plain Python."""
