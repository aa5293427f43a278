"""Imports yolov5_utils.auto and runs a client: auto.py first|late SCRIPT or -m MODULE, ARGUMENT...

first: before the client, which then runs as python runs it. late: with the client's modules
imported, as in a notebook, whose functions are called then.
"""

import importlib
import inspect
import runpy
import sys

when, *sys.argv = sys.argv[1:]
name = sys.argv[0]
if name == "-m":
    del sys.argv[0]
    name = sys.argv[0]
if when == "late":
    client = importlib.import_module("yolov5.detect" if name.endswith(".py") else name)
importlib.import_module("yolov5_utils.auto")

if name.endswith(".py"):
    runpy.run_path(name, run_name="__main__")
elif when == "late":
    parsed = inspect.signature(client.main).parameters  # detect.py of 5.0 and 6.0 parses by itself
    client.main(*([client.parse_opt()] if parsed else []))
else:
    runpy.run_module(name, run_name="__main__", alter_sys=True)
