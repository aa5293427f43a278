"""Writes down, outside the client, what one run of it does: a line of JSON an event, into RECORD.

At every torch.save: the full-precision state of every live ModelEMA, since checkpoints are fp16
and hide one-ulp errors, and which objects of this package what is saved leads to. At exit of the
first process: the surface of the client's torch_utils, the names of all modules, the random states,
what of this package was loaded, and how often its C ran. With INTERRUPT=n, Ctrl-C comes right after
the n-th torch.save. With COUNT, wrappers count the calls of what the hot callables call in torch.
"""

import atexit
import functools
import gc
import hashlib
import inspect
import json
import multiprocessing
import os
import random
import signal
import sys
import types

HOT = [
    "ModelEMA",
    "ModelEMA.update",
    "ModelEMA.update_attr",
    "sparsity",
    "prune",
    "fuse_conv_and_bn",
    "scale_img",
    "time_sync",
    "time_synchronized",
    "model_info",
]
# What a user may replace in torch, to count or to export: the owner, the name.
COUNTED = [
    *(("nn.functional", name) for name in ("interpolate", "pad")),
    *(("nn.utils.prune", name) for name in ("l1_unstructured", "remove")),
    *(("nn.Module", name) for name in ("named_modules", "parameters", "state_dict")),
    *(("", name) for name in ("diag", "mm", "sqrt")),
]
counts = {}
OTHERS = ("yolov5_utils", "__main__", "__mp_main__")  # whose copies are not compared
saves = 0


def write(record):
    rank = os.environ.get("RANK", "0")
    name = os.environ["RECORD"] + ("" if rank == "0" else f".{rank}")
    with open(name, "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


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


def reachable(start):
    """The types of this package's objects that a value leads to, modules and functions aside."""
    found, seen, stack = set(), set(), [start]
    while stack:
        value = stack.pop()
        if id(value) in seen or isinstance(value, (type, types.ModuleType, types.FunctionType)):
            continue
        seen.add(id(value))
        if type(value).__module__.partition(".")[0] == "yolov5_utils":
            found.add(type(value).__qualname__)
        stack.extend(gc.get_referents(value))
    return sorted(found)


def random_states(torch):
    """Hashes of the states that the client's own libraries draw from."""
    states = {"torch": torch.get_rng_state().numpy().tobytes(), "random": repr(random.getstate())}
    numpy = sys.modules.get("numpy.random")
    if numpy is not None:
        parts = numpy.get_state()
        states["numpy"] = repr([p.tolist() if hasattr(p, "tolist") else p for p in parts])
    hashes = {}
    for name, state in states.items():
        content = state if isinstance(state, bytes) else state.encode()
        hashes[name] = hashlib.sha256(content).hexdigest()
    return hashes


def count(torch):
    """Put a wrapper around each of COUNTED, as a profiler or an exporter does."""
    import torch.nn.utils.prune

    for owner, name in COUNTED:
        place = torch
        for part in filter(None, owner.split(".")):
            place = getattr(place, part)

        setattr(place, name, counting(f"{owner}.{name}", getattr(place, name)))


def counting(name, function):
    @functools.wraps(function)
    def wrapper(*arguments, **keywords):
        counts[name] = counts.get(name, 0) + 1
        return function(*arguments, **keywords)

    return wrapper


def surface(module):
    """What a client can see of its own hot callables without calling them."""
    lines = {"names": list(vars(module)), "ModelEMA": list(vars(module.ModelEMA))}
    for dotted in HOT:
        value = module
        for part in dotted.split("."):
            value = getattr(value, part, None)
        if value is not None:
            lines[dotted] = [
                type(value).__name__,
                str(inspect.signature(value)),
                value.__doc__,
                *(value.__module__, value.__qualname__, value.__name__),
                repr(getattr(value, "__defaults__", None)),
            ]
    return lines


def copies(module):
    """Which modules hold the hot callables under their own name, and whether it is this one's.

    Without __main__, which is another module where a function of the client is called.
    """
    held = []
    for name, other in sorted(sys.modules.items()):
        names = getattr(other, "__dict__", {})
        for hot in HOT:
            value = names.get(hot)
            if inspect.isfunction(value) or inspect.isclass(value):
                held.append([name, hot, value is vars(module).get(hot)])
    return [entry for entry in held if entry[0].split(".")[0] not in OTHERS]


def package():
    """What of this package the process has loaded."""
    ops = sys.modules.get("yolov5_utils.ops")
    operations = ops.OPERATIONS if ops else {}
    overlay = sys.modules.get("yolov5_utils.overlay")
    return {
        "modules": [name for name in sys.modules if name.split(".")[0] == "yolov5_utils"],
        "file": getattr(sys.modules.get("yolov5_utils"), "__file__", None),
        "calls": {name: path.calls for name, path in operations.items()},
        "reasons": {name: path.reasons for name, path in operations.items()},
        "overlay": [record._asdict() for record in overlay.status()] if overlay else [],
    }


def processes_started():
    return next(multiprocessing.process._process_counter) - 1


def at_exit(torch):
    if multiprocessing.parent_process() is not None:  # known only after torch's import
        return
    modules = {
        name: module
        for name, module in list(sys.modules.items())
        if name.endswith("utils.torch_utils") and name.split(".")[0] != "yolov5_utils"
    }
    write(
        {
            "surfaces": {name: surface(module) for name, module in modules.items()},
            "copies": {name: copies(module) for name, module in modules.items()},
            "package": package(),
            "modules": sorted(name for name in sys.modules if name.split(".")[0] not in OTHERS),
            "random": random_states(torch),
            "counts": counts,
            "workers": [multiprocessing.get_start_method(), processes_started()],
        }
    )


def start(torch):
    original = torch.save

    def save(content, file, *arguments, **keywords):
        global saves
        saves += 1
        name = os.path.basename(file) if isinstance(file, (str, os.PathLike)) else "a buffer"
        write({"save": name, "averages": averages(), "ours": reachable(content)})
        original(content, file, *arguments, **keywords)
        if str(saves) == os.environ.get("INTERRUPT"):
            os.kill(os.getpid(), signal.SIGINT)

    torch.save = save
    torch.manual_seed(1)  # so that the states at the end can be compared
    random.seed(1)
    atexit.register(at_exit, torch)
    if os.environ.get("COUNT"):
        count(torch)
