"""What older releases of torch cannot be asked: which tests they skip, and why.

Each line is a pattern of test ids and the reason that the skip shows, below the first release that
does not skip them. On a later release the lines are not looked at, so they can hide nothing there.
"""

from __future__ import annotations

import re

import torch

SIXTEEN_BITS = "torch before 2.1 rounds 16-bit floats otherwise, and C leaves them to it"
HALF = "this torch cannot do it with so small a dtype on the CPU"
NOT_THERE = "this torch has not got what the test uses"
NO_VARIANT = "no variant of scale_img in C has the bits of this torch, which runs itself"
NO_LISTS = "torch before 2.1 lacks operations on lists, so that the reference runs"
UNSTEADY = "this torch's own bfloat16 kernel for it does not give the same numbers every time"
NO_HALF = "this torch does not compute with float16 on the CPU like that, the original neither"
NO_FLOAT8 = "this torch gives no capsule of a float8 tensor, so that it runs itself"
NO_BOOL = "this torch gives no capsule of a bool tensor, so that it runs itself"
NO_GENERATORS = "this torch's compiler does not read generators, which the original has"
NAMED_OTHERWISE = "this torch names the capability of old CPUs otherwise"
SKIPPED: dict[tuple[int, int], dict[str, str]] = {
    (2, 1): {
        r"test_ema\.py::(test_dtype_pairs|test_layouts)\[.*float16": SIXTEEN_BITS,
        r"test_ema\.py::(test_decays|test_every_half_value|test_both_ways_to_)": SIXTEEN_BITS,
        r"test_ema_modules\.py::(test_casts_after_the_copy\[.*(half|bfloat16))": SIXTEEN_BITS,
        r"test_ema_modules\.py::test_storage_that_moved": NOT_THERE,
        r"test_ema_refusals\.py::(test_float8|test_modules_with_a_state.*pre_hook)": NOT_THERE,
        r"test_ema_changes\.py::test_seen_at_once\[to_half": SIXTEEN_BITS,
        r"test_ema_changes\.py::test_(seen_at_once\[load_assign|left_.*\[pre_hook)": NOT_THERE,
        r"test_scale_img\.py::test_torch_of_other_cpus": NOT_THERE,
        r"test_scale_img_ways\.py::test_runs_as_torch\[(float16|uint8)": HALF,
        r"test_scale_img_ways\.py::(test_compile|test_forward_mode|test_function_tr)": NOT_THERE,
        r"test_verify\.py::test_a_fault_in_the_image": NO_VARIANT,
        r"test_scale_img_ways\.py::test_flush_to_zero_runs_as_torch": NO_VARIANT,
        r"test_scale_img_ways\.py::test_runs_as_torch\[(channels last, 4|every sec)": NO_VARIANT,
        r"test_scale_img_ways\.py::test_runs_as_torch\[(transp|a permuted|meta)": NO_VARIANT,
        r"test_scale_img_classes\.py::test_left_to_torch": NO_VARIANT,
        r"test_ema_lists\.py::(test_dtypes|test_decays|test_every_kind|test_turns_keep)": NO_LISTS,
        r"test_ema_lists\.py::(test_scalars_beyond|test_disjoint_parts)": NO_LISTS,
        r"test_devices\.py::test_scale_img\[cpu-torch\.bfloat16-torch\.channels_last": UNSTEADY,
        r"test_fuse_model\.py::test_registration_hooks": NOT_THERE,
        r"test_devices_explain\.py::test_explained_and_then_taken\[cpu-scale_img": NO_VARIANT,
        r"test_prune_models\.py::(test_meta_tensors|test_registration_hooks)": NOT_THERE,
        r"test_prune_modes\.py::test_modes": NOT_THERE,
        r"test_fuse\.py::test_no_memory_is_shared": NOT_THERE,
        r"test_fuse\.py::test_signs_of_zero\[.*torch\.float16": NO_HALF,
        r"test_fuse_refusals\.py::test_registration_hooks": NOT_THERE,
        r"test_time_synchronized\.py::test_with_nvml": NOT_THERE,
        r"test_benchmark_models\.py::": NOT_THERE,
        r"test_interrupts\.py::test_average_in_lists": NO_LISTS,
        r"test_interrupts\.py::test_what_a_handler_raises_in_a_trial": "its text is an answer",
        r"test_scalars\.py::test_decays.*float16": SIXTEEN_BITS,
        r"test_counting\.py::|test_model_info\.py::": "this torch tells no mode of indexing",
    },
    (2, 2): {
        r"test_scale_img_ways\.py::test_compile_keeps_the_operations": NO_GENERATORS,
    },
    (2, 3): {
        r"test_benchmark_steps\.py::": NOT_THERE,
        r"test_ema_changes\.py::test_(seen_at_once\[swap-|random_sequences)": NOT_THERE,
        r"test_sparsity\.py::(test_views|test_count_zeros)\[.*torch\.bool": NO_BOOL,
        r"test_prune_models\.py::(test_as_torch_leaves_it|test_ties_as_).*torch\.float16": NO_HALF,
        r"test_prune_ties\.py::test_the_choice_is_that_of_topk.*torch\.float16": NO_HALF,
        r"test_fuse\.py::(test_types|test_a_missing_bias|test_doubtful).*torch\.float16": NO_HALF,
        r"test_fuse_gpu\.py::test_one_output_channel\[cpu-torch\.float16": NO_HALF,
        r"test_devices\.py::test_(prune_models|fuse|scale_img)\[cpu-torch\.float16": NO_HALF,
        r"test_prune_ties\.py::test_any_few_values": NO_HALF,
        r"test_scalars\.py::test_zeros.*torch\.float16": NO_HALF,
        r"test_fuse_types\.py::.*torch\.float16": NO_HALF,
        r"test_inspection\.py::TestProfile::test_half_input": NO_HALF,
        r"test_scale_img_ways\.py::test_runs_as_torch\[float16": NO_HALF,
    },
    (2, 5): {
        r"test_scale_img\.py::test_torch_of_other_cpus\[default": NAMED_OTHERWISE,
        r"test_ema_refusals\.py::test_float8": "this torch refuses it with a RuntimeError",
    },
    (2, 13): {  # or earlier
        r"test_sharded_ema\.py::.*hybrid": "hybrid sharding of this torch cannot average by gloo",
    },
    (2, 10): {
        r"test_sparsity\.py::test_every_float8_value": NO_FLOAT8,
    },
}
RELEASE = tuple(int(part) for part in torch.__version__.split(".")[:2])
APPLIES = RELEASE < (2, 1)


def reason(test_id: str) -> str | None:
    """Why this torch skips a test, None where it runs it."""
    return next(
        (
            why
            for first_with, patterns in SKIPPED.items()
            if first_with > RELEASE
            for pattern, why in patterns.items()
            if re.search(pattern, test_id)
        ),
        None,
    )
