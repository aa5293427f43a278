"""Imports yolov5_utils.auto, runs a client: auto.py first|late|never FILE or -m MODULE, ARGUMENT...

first: before the client, which then runs as python runs it. late: with the client's modules
imported, as in a notebook, whose functions are called then. never: as late, without the import.
"""

import importlib
import inspect
import os
import runpy
import sys

IMPORTS = {"yolo": "ultralytics.models"}  # what a file will want; those of ours: yolov5.detect

when, *sys.argv = sys.argv[1:]
is_file = sys.argv[0] != "-m"
if not is_file:
    del sys.argv[0]
name = sys.argv[0]
if when != "first":
    file_imports = IMPORTS.get(os.path.basename(name), "yolov5.detect")
    client = importlib.import_module(file_imports if is_file else name)
if when != "never":
    importlib.import_module("yolov5_utils.auto")

if is_file:
    runpy.run_path(name, run_name="__main__")
elif when != "first":
    parsed = inspect.signature(client.main).parameters  # detect.py of 5.0 and 6.0 parses by itself
    client.main(*([client.parse_opt()] if parsed else []))
else:
    runpy.run_module(name, run_name="__main__", alter_sys=True)
