"""What `python -m yolov5_utils` does, a file per command. Must not import torch."""
