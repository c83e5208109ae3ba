"""All cases of a CPU."""

from benchmarks import caffe2_cases, lab_cases, layer_cases, loss_cases, microbatch_cases, search_cases

ALL_CASES = [
    *layer_cases.CASES,
    *loss_cases.CASES,
    *microbatch_cases.CASES,
    *search_cases.CASES,
    *lab_cases.CASES,
    *caffe2_cases.CASES,
]
