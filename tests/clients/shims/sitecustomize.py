"""Runs before the client, outside it: makes old releases run on today's libraries, and records.

The client's files stay as they were installed, and nothing is imported before the client does it.
With RECORD set to a file, recorder.py writes down what the run does. With START_METHOD set,
multiprocessing starts its processes that way.
"""

import importlib.abc
import importlib.util
import os
import socket
import sys


class AfterImport(importlib.abc.MetaPathFinder):
    """Calls a function with a module right after that module has executed."""

    def __init__(self, calls):
        self.calls = calls

    def find_spec(self, fullname, path, target=None):
        call = self.calls.pop(fullname, None)
        if call is None:
            return None
        spec = importlib.util.find_spec(fullname)
        execute = spec.loader.exec_module

        def exec_module(module):
            del spec.loader.exec_module
            execute(module)
            call(module)

        spec.loader.exec_module = exec_module
        return spec


def only_this_machine(host, *arguments, **keywords):
    """The runs must be the same with a network as without one."""
    if host in (None, "localhost", "127.0.0.1", "0.0.0.0", "::1", socket.gethostname()):
        return resolve(host, *arguments, **keywords)
    raise socket.gaierror(socket.EAI_NONAME, "no network in this test")


def shim_numpy(numpy):
    """Names that releases up to 7.0 use and NumPy has since removed."""
    for name, value in (("int", int), ("float", float), ("trapz", numpy.trapezoid)):
        if name not in vars(numpy):
            setattr(numpy, name, value)
    numpy.random.seed(1)


def shim_pools(pool):
    """5.0 keeps its pictures in the order in which threads happen to have read them."""
    pool.Pool.imap_unordered = pool.Pool.imap


def shim_fonts(module):
    """Pillow's getsize, and the font that 5.0 asks for by name and never downloads."""
    if not hasattr(module.FreeTypeFont, "getsize"):
        module.FreeTypeFont.getsize = lambda font, text: font.getbbox(text)[2:]
    truetype = module.truetype

    def found(font, *arguments, **keywords):
        if font == "Arial.ttf":
            font = os.path.join(os.environ["YOLOV5_CONFIG_DIR"], font)
        return truetype(font, *arguments, **keywords)

    module.truetype = found


def shim_torch(torch):
    """Releases up to 6.0 clamp whole numbers between float tensors, which torch now refuses."""
    clamp_ = torch.Tensor.clamp_

    def clamp(tensor, *bounds, **named):
        if not tensor.dtype.is_floating_point:
            bounds = [int(bound) if isinstance(bound, torch.Tensor) else bound for bound in bounds]
        return clamp_(tensor, *bounds, **named)

    torch.Tensor.clamp_ = clamp
    if os.environ.get("RECORD"):
        import recorder

        recorder.start(torch)


resolve = socket.getaddrinfo
socket.getaddrinfo = only_this_machine
calls = {
    "numpy": shim_numpy,
    "multiprocessing.pool": shim_pools,
    "PIL.ImageFont": shim_fonts,
    "torch": shim_torch,
}
sys.meta_path.insert(0, AfterImport(calls))
if os.environ.get("START_METHOD"):
    import multiprocessing

    multiprocessing.set_start_method(os.environ["START_METHOD"])
