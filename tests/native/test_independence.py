"""A row's result depends on nothing beside it, and values under a mask on nothing at all: bitwise."""

from __future__ import annotations

import multiprocessing
import threading

import numpy as np
import pytest

pytest.importorskip("torch", reason="the cases are shared with the tests of agreement")

from gapcell import Spec, native
from gapcell.torch import threads as torch_threads
from native.cases import INPUTS, KERNELS, Arrays, Case, aligned, empty_like, run_kernel, same_bits, worst

if native.active().name == "off":
    pytest.skip(f"no kernel: {native.active().reason}", allow_module_level=True)

ROWS = ("x", "observed", "update", "recurrent_scale", "h0", "c0", "dhs", "dh", "dc")


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest):
    with native.using(request.param):
        yield request.param


@pytest.fixture(params=["lstm", "gru"])
def case(request: pytest.FixtureRequest) -> Case:
    spec = Spec(cell=request.param, rank=2, in_channels=3, filters=20, kernel_size=3, stride=(1, 2))
    masks = {"observed": "elements", "update": "sites", "scale": "row"}
    return Case(spec=spec, samples=11, steps=5, sites=(4, 5), threads=3, **masks)


def rows_of(data: Arrays, rows: list[int]) -> Arrays:
    return {n: v[rows] if n in ROWS and v is not None else v for n, v in data.items()}


def test_rows_alone_in_any_batch_and_order(kernel: str, case: Case) -> None:
    data = case.arrays()
    together = run_kernel(case, data, backward=False)
    for rows in ([4], [10, 3, 3, 0], list(range(11))[::-1]):
        alone = run_kernel(case.but(samples=len(rows)), rows_of(data, rows), backward=False)
        assert same_bits(alone, {name: value[rows] for name, value in together.items()}) == []


def test_gradients_of_rows_do_not_depend_on_the_batch(kernel: str, case: Case) -> None:
    data, rows = case.arrays(), [7, 2]
    together = run_kernel(case, data)
    alone = run_kernel(case.but(samples=2), rows_of(data, rows))
    mine = ("hs", "h", "dx", "dh0")
    assert same_bits({n: alone[n] for n in mine}, {n: together[n][rows] for n in mine}) == []


def test_outputs_for_any_number_of_threads_and_any_storage(kernel: str, case: Case) -> None:
    once = run_kernel(case.but(threads=1, store="none"), backward=False)
    for threads in (2, 3, 64):
        for store in ("none", "fp32", "recompute"):
            assert same_bits(run_kernel(case.but(threads=threads, store=store), backward=False), once) == []


@pytest.mark.parametrize("stored_by", KERNELS)
def test_gradients_by_another_instruction_set_than_stored(kernel: str, case: Case, stored_by: str) -> None:
    case = case.but(spec=Spec(cell=case.spec.cell, rank=1, in_channels=3, filters=5, kernel_size=3), sites=(6,))
    data, layer, parameters = case.arrays(), case.layer(), case.spec.parameter_shapes()
    weights = {name: data[name] for name in parameters}
    inputs = {name: data[name] for name in INPUTS if data.get(name) is not None}
    hs, stored = empty_like(layer, ("hs",)), aligned(layer.stored_bytes(data["update"]))
    with native.using(stored_by):
        layer.forward(weights, **inputs, **hs, stored=stored)
    gradients = empty_like(layer, ("dx", "dh0", *(f"d{name}" for name in parameters)))
    cotangents = {name: data[name] for name in ("dhs", "dh", "dc") if name in data}
    layer.backward(weights, **inputs, **hs, stored=stored, **cotangents, **gradients)
    once = run_kernel(case, data)
    assert worst(gradients, {name: once[name] for name in gradients})[0] < 1e-5


@pytest.mark.parametrize("lent", [False, True])
@pytest.mark.parametrize("update", ["", "steps", "sites"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_threads_that_share_the_sites_of_few_samples_change_no_bit(cell: str, update: str, lent: bool) -> None:
    """Large enough that the threads are used: a step's work is divided by its sites."""
    gap = "decay" if update else "hold"
    spec = Spec(cell=cell, rank=2, in_channels=5, filters=40, kernel_size=3, gap=gap)
    case = Case(spec=spec, samples=2, steps=4, sites=(9, 17), update=update, held_output="hold", scale="sites")
    data = case.arrays()
    alone = run_kernel(case, data)
    for count in (4, 7):
        shared = case.but(threads=count, parallel=torch_threads.parallel() if lent else 0)
        summed = {"drates", *(f"d{name}" for name in spec.parameter_shapes())}
        of_rows = [name for name in alone if name not in summed]
        trained = run_kernel(shared, data)
        assert same_bits({name: trained[name] for name in of_rows}, alone) == []
        assert same_bits(run_kernel(shared.but(store="none"), data, backward=False), alone) == []


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_training_is_reproducible_for_a_number_of_threads(case: Case, threads: int) -> None:
    case = case.but(spec=Spec(rank=1, in_channels=8, filters=64, kernel_size=3), sites=(16,), samples=16, scale="")
    first = run_kernel(case.but(threads=threads))
    for _ in range(5):
        assert same_bits(run_kernel(case.but(threads=threads)), first) == []


@pytest.mark.parametrize("value", [1e30, np.nan, np.inf, -np.inf])
def test_masked_values_and_cotangents_of_zero_outputs_change_nothing(kernel: str, case: Case, value: float) -> None:
    data = case.arrays()
    clean = run_kernel(case, data)
    dirty = dict(data, x=data["x"].copy(), dhs=data["dhs"].copy())
    dirty["x"][~data["observed"]] = value
    dirty["dhs"][~data["update"]] = value
    results = run_kernel(case, dirty)
    assert same_bits(results, clean) == []
    assert (results["dx"][~data["observed"]] == 0).all()


def test_masks_of_ones_are_no_mask(kernel: str, case: Case) -> None:
    data = case.arrays()
    ones = dict(data, observed=np.ones_like(data["observed"]), update=np.ones_like(data["update"]))
    none = dict(data, observed=None, update=None)
    assert same_bits(run_kernel(case, ones), run_kernel(case, none)) == []


def test_no_observed_step_returns_the_initial_state_and_zero_gradients(kernel: str, case: Case) -> None:
    case = case.but(share=0.0, held_output="hold")
    data = case.arrays()
    results = run_kernel(case, data)
    assert results["h"].tobytes() == data["h0"].tobytes()
    assert all((results[n] == 0).all() for n in ("dx", *(f"d{name}" for name in case.spec.parameter_shapes())))
    assert (results["hs"] == data["h0"][:, None]).all()


def test_a_step_that_is_masked_is_a_step_that_is_not_there(kernel: str) -> None:
    spec = Spec(rank=1, in_channels=3, filters=20, kernel_size=3)
    case = Case(spec=spec, samples=1, steps=6, observed="steps", update="steps")
    data = case.arrays()
    kept = data["update"][0] = data["observed"][0] = np.array([True, False, True, True, False, True])
    gone = {n: v[:, kept] if n in ("x", "observed", "update", "dhs") else v for n, v in data.items()}
    with_gaps, without = run_kernel(case, data), run_kernel(case.but(steps=4), gone)
    for name in ("hs", "dx"):
        with_gaps[name] = np.ascontiguousarray(with_gaps[name][:, kept])
    assert same_bits(with_gaps, without) == []
    assert case.layer().stored_bytes(data["update"]) == case.but(steps=4).layer().stored_bytes()


def test_frozen_weights_are_a_copy(kernel: str) -> None:
    case = Case(spec=Spec(rank=1, in_channels=3, filters=20, kernel_size=3), store="none")
    data, layer = case.arrays(), case.layer()
    expected = run_kernel(case, data, backward=False)["hs"]
    weights = layer.pack({name: data[name] for name in case.spec.parameter_shapes()})
    data["kernel"][:] = np.nan
    hs = np.empty_like(expected)
    layer.forward(weights, x=data["x"], h0=data["h0"], c0=data["c0"], hs=hs)
    assert hs.tobytes() == expected.tobytes()


def test_several_python_threads_at_once(case: Case) -> None:
    expected, found = run_kernel(case), [None] * 6

    def work(i: int) -> None:
        for _ in range(5):
            found[i] = run_kernel(case)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(len(found))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(same_bits(results, expected) == [] for results in found)


def _in_child(case: Case, queue) -> None:
    queue.put(run_kernel(case))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # that is what is tested
def test_after_a_fork(case: Case) -> None:
    large = Spec(rank=1, in_channels=8, filters=64, kernel_size=3)  # enough work that the pool is used
    case = case.but(spec=large, sites=(16,), samples=16, scale="")
    expected = run_kernel(case)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(case, queue))
    child.start()
    assert same_bits(queue.get(timeout=60), expected) == []
    child.join(timeout=60)
    assert child.exitcode == 0


def test_memory_is_kept_within_bounds_and_given_back(case: Case) -> None:
    run_kernel(case)
    assert 0 < native.idle_bytes() <= 256 * 2**20
    native.release_idle()
    assert native.idle_bytes() == 0
    assert aligned(64).ctypes.data % 64 == 0
