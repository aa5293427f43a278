"""find_modules, intersect_dicts, copy_attr and the helpers for wrapped models, against texts worked
out by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from yolov5_utils.torch_utils import (
    copy_attr,
    de_parallel,
    find_modules,
    intersect_dicts,
    is_parallel,
)


class TestFindModules:
    def test_positions_by_class(self):
        model = SimpleNamespace(
            module_list=[
                nn.Conv2d(1, 1, 1),
                nn.ReLU(),
                nn.ConvTranspose2d(1, 1, 1),
                nn.Conv2d(1, 1, 1),
            ]
        )
        assert find_modules(model) == [0, 3]
        assert find_modules(model, nn.ReLU) == [1]
        assert find_modules(model, mclass=(nn.ReLU, nn.ConvTranspose2d)) == [1, 2]
        assert find_modules(model, nn.Linear) == []

    def test_subclasses_count(self):
        class Own(nn.Conv2d):
            pass

        assert find_modules(SimpleNamespace(module_list=[Own(1, 1, 1)])) == [0]

    def test_model_without_module_list(self):
        with pytest.raises(AttributeError, match="module_list"):
            find_modules(nn.Conv2d(1, 1, 1))


FIRST = {
    "model.0.weight": torch.zeros(2, 3),
    "anchors": torch.zeros(4),
    "model.1.weight": torch.zeros(5),
    "extra": torch.zeros(1),
}
SECOND = {
    "anchors": torch.ones(4),
    "model.1.weight": torch.ones(6),
    "model.0.weight": torch.ones(2, 3),
    "other": torch.ones(1),
}


class TestIntersectDicts:
    def test_same_key_and_shape_with_values_of_the_first(self):
        both = intersect_dicts(FIRST, SECOND)
        assert list(both) == ["model.0.weight", "anchors"]
        assert both["anchors"] is FIRST["anchors"]

    @pytest.mark.parametrize(
        ("exclude", "left"),
        [
            (["anchor"], ["model.0.weight"]),
            (("0.w",), ["anchors"]),
            (["model", "anchors"], []),
            (["nothing"], ["model.0.weight", "anchors"]),
        ],
    )
    def test_exclude_by_part_of_the_key(self, exclude, left):
        assert list(intersect_dicts(FIRST, SECOND, exclude=exclude)) == left

    def test_values_without_shape(self):
        with pytest.raises(AttributeError, match="shape"):
            intersect_dicts({"a": 1}, {"a": 1})


class TestCopyAttr:
    @pytest.mark.parametrize(
        ("include", "exclude", "copied"),
        [
            ((), (), {"nc": 80, "names": ["a"], "hyp": 1}),
            (("nc", "missing"), (), {"nc": 80}),
            (["nc", "hyp"], ["hyp"], {"nc": 80}),
            ({"_private"}, (), {}),
            ((), ("nc", "hyp"), {"names": ["a"]}),
            ("nc, names", (), {"nc": 80, "names": ["a"]}),  # a text contains its parts
        ],
    )
    def test_selection(self, include, exclude, copied):
        target = SimpleNamespace()
        source = SimpleNamespace(nc=80, names=["a"], hyp=1, _private=2)
        assert copy_attr(target, source, include, exclude) is None
        assert vars(target) == copied

    def test_values_are_shared_and_others_kept(self):
        target, source = SimpleNamespace(own=1, nc=1), SimpleNamespace(names=["a"], nc=2)
        copy_attr(target, source)
        assert target.names is source.names
        assert (target.own, target.nc) == (1, 2)

    def test_modules_give_plain_attributes(self):
        target, source = nn.Conv2d(1, 1, 1).eval(), nn.Conv2d(1, 1, 1)
        source.names = ["a"]
        weight = target.weight
        copy_attr(target, source)
        assert target.training  # copied like any other
        assert target.names == ["a"]
        assert target.weight is weight is not source.weight


class OwnDataParallel(nn.DataParallel):
    pass


class TestParallel:
    @pytest.mark.parametrize("kind", [nn.DataParallel, nn.parallel.DistributedDataParallel])
    def test_the_two_wrappers(self, kind):
        inner = nn.Linear(1, 1)
        wrapped = kind.__new__(kind)  # DDP's own constructor needs a process group
        nn.Module.__init__(wrapped)
        wrapped.module = inner
        assert is_parallel(wrapped) is True
        assert de_parallel(wrapped) is inner

    @pytest.mark.parametrize("model", [nn.Linear(1, 1), nn.Sequential(nn.DataParallel(nn.ReLU()))])
    def test_other_models(self, model):
        assert is_parallel(model) is False
        assert de_parallel(model) is model

    def test_a_subclass_is_not_unwrapped(self, monkeypatch):
        model = OwnDataParallel(nn.Linear(1, 1))
        assert is_parallel(model) is False
        assert de_parallel(model) is model
        monkeypatch.setattr(
            nn.parallel, "DataParallel", OwnDataParallel
        )  # but in torch's place it is
        assert is_parallel(model) is True
        assert de_parallel(model) is model.module
