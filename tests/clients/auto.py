"""Imports yolov5_utils.auto, and runs a client: auto.py first|late MODULE ARGUMENT...

first: before the client, which then runs as `python -m MODULE` does. late: with the client's
module imported, as in a notebook, its own functions are called then.
"""

import importlib
import runpy
import sys

when, dash_m, name = sys.argv[1:4]
sys.argv = [name, *sys.argv[4:]]
if when == "first":
    import yolov5_utils.auto

    runpy.run_module(name, run_name="__main__", alter_sys=True)
else:
    client = importlib.import_module(name)
    import yolov5_utils.auto

    client.main(client.parse_opt())
