"""Runs before the client, outside it: makes old YOLOv5 run on today's libraries, and records.

The client's files stay as they were installed. With RECORD set to a file, a line is written at
every torch.save (the full-precision state of every live ModelEMA: checkpoints are fp16 and hide
one-ulp errors), and one at exit (what of this package was loaded, and how often its C ran).
"""

import atexit
import gc
import hashlib
import json
import os
import socket
import sys


def refuse(*arguments, **keywords):
    """The runs must be the same with a network as without one."""
    raise socket.gaierror(socket.EAI_NONAME, "no network in this test")


def shim_libraries():
    """Names that YOLOv5 7.0 uses and its dependencies have since removed."""
    import numpy
    from PIL import ImageFont

    if not hasattr(numpy, "trapz"):
        numpy.trapz = numpy.trapezoid
    if not hasattr(ImageFont.FreeTypeFont, "getsize"):
        ImageFont.FreeTypeFont.getsize = lambda font, text: font.getbbox(text)[2:]


def averages():
    """Updates and hashed full-precision state of every live ModelEMA, by nothing but its name."""
    found = []
    for instance in gc.get_objects():
        if type(instance).__name__ != "ModelEMA":
            continue
        state = {}
        for key, value in instance.ema.state_dict().items():
            content = hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest()
            state[key] = [str(value.dtype), list(value.shape), content]
        found.append({"updates": instance.updates, "state": state})
    return found


def write(record):
    with open(os.environ["RECORD"], "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def record_saves():
    import torch

    original = torch.save

    def save(content, file, *arguments, **keywords):
        write({"save": os.path.basename(str(file)), "averages": averages()})
        return original(content, file, *arguments, **keywords)

    torch.save = save


def record_exit():
    """Which modules of the package were loaded, and the calls that its EMA counted, if it was."""
    native = sys.modules.get("yolov5_utils._native")
    calls = native.HOT_PATHS["ema"].calls if native else {}
    modules = [name for name in sys.modules if name.split(".")[0] == "yolov5_utils"]
    where = getattr(sys.modules.get("yolov5_utils"), "__file__", None)
    overlay = sys.modules.get("yolov5_utils.overlay")
    records = [record._asdict() for record in overlay.status()] if overlay else []
    write({"modules": modules, "file": where, "calls": calls, "overlay": records})


socket.getaddrinfo = refuse
shim_libraries()
if os.environ.get("RECORD"):
    record_saves()
    atexit.register(record_exit)
