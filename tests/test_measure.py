"""Timings count every call, wait for the device, leave out the warm-up, and quote nothing that too few calls bear."""

import time

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from proofbook.measure.clock import clock_for
from proofbook.measure.flops import count_flops, peak_flops
from proofbook.measure.generation import NoGeneration, time_generation
from proofbook.measure.latency import MAX_CALLS, MIN_CALLS, Latency, time_calls
from proofbook.measure.memory import peak_device_mb, peak_process_mb, reset_peak
from proofbook.measure.speedup import Speedup, speedup
from proofbook.runtimes.eager import EagerSession
from proofbook.workbook.case import Case

CPU = torch.device("cpu")


def llama(attention: str = "sdpa") -> LlamaForCausalLM:
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = LlamaConfig(**sizes, num_attention_heads=4, attn_implementation=attention, pad_token_id=0, eos_token_id=0)
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


IDS = {"input_ids": torch.arange(2, 34).reshape(2, 16)}


def test_calls_are_counted_and_the_device_is_waited_for() -> None:
    events: list[str] = []
    latency = time_calls(lambda: events.append("call"), lambda: events.append("wait"), budget_s=60)
    assert len(latency.calls_ms) >= MAX_CALLS
    assert events.count("call") == 1 + len(latency.warming_ms) + len(latency.calls_ms)
    assert events[:3] == ["wait", "call", "wait"]


def test_a_slow_call_ends_at_the_budget_but_not_before_the_fewest_calls() -> None:
    latency = time_calls(lambda: time.sleep(0.02), lambda: None, budget_s=0.01)
    assert len(latency.calls_ms) == MIN_CALLS
    assert latency.steady is None
    assert min(latency.calls_ms) >= 20
    assert latency.first_s >= 0.02
    assert latency.interval is not None


def test_what_warms_up_is_left_out() -> None:
    slow = iter([0.01] * 7)
    latency = time_calls(lambda: time.sleep(next(slow, 0.002)), lambda: None, budget_s=60)
    assert len(latency.warming_ms) >= 5  # whole batches; the first call stands apart
    assert latency.median_ms < 10


@pytest.mark.parametrize(("calls", "quoted"), [(5, [50]), (10, [50, 90]), (99, [50, 90]), (100, [50, 90, 99])])
def test_a_percentile_needs_calls_beyond_it(calls: int, quoted: list[float]) -> None:
    latency = Latency(0.1, tuple(float(i) for i in range(calls)))
    assert [percent for percent in (50, 90, 99) if latency.percentile(percent) is not None] == quoted


def test_throughput_is_work_over_the_median_call() -> None:
    assert Latency(0.1, (10.0, 20.0, 90.0)).throughput(work=4) == pytest.approx(200)


def test_a_device_without_events_is_timed_by_the_wall_clock() -> None:
    clock = clock_for(CPU, lambda: None, lambda: None)
    assert clock.name == "wall clock"
    assert clock.ms(lambda: time.sleep(0.01)) >= 10


def test_two_sessions_are_timed_in_turns() -> None:
    order: list[torch.dtype] = []
    models = [llama(), llama().to(torch.bfloat16)]
    for model in models:
        model.register_forward_pre_hook(lambda module, args: order.append(module.dtype))
    sessions = [EagerSession(model, CPU, model.dtype) for model in models]
    found = speedup(*sessions, IDS, budget_s=0.1)
    pairs = list(zip(order[2::2], order[3::2], strict=True))  # behind a first call of each
    assert len(pairs) >= found.ratio.pairs >= MIN_CALLS
    assert all(set(pair) == {torch.float32, torch.bfloat16} for pair in pairs)
    assert len({pair[0] for pair in pairs}) == 2  # neither always goes first
    assert found.ratio.interval is not None
    assert found.ratio.interval.low <= found.ratio.median <= found.ratio.interval.high


def test_a_slower_session_is_the_slower_by_the_ratio() -> None:
    class Sleeps(torch.nn.Module):
        def __init__(self, seconds: float) -> None:
            super().__init__()
            self.seconds = seconds

        def forward(self) -> None:
            time.sleep(self.seconds)

    fast, slow = (EagerSession(Sleeps(seconds), CPU, torch.float32) for seconds in (0.002, 0.02))
    assert speedup(fast, slow, {}, 0.1).ratio.median > 2
    assert speedup(slow, fast, {}, 0.1).ratio.median < 0.5


def test_generation_is_timed_token_by_token_and_rows_do_not_end_early() -> None:
    model = llama()
    torch.nn.init.zeros_(model.lm_head.weight)  # every token alike: the first, or the one that ends a row

    def answer() -> None:
        time.sleep(0.5)
        model.generate(**IDS, max_new_tokens=5, do_sample=False)

    found = time_generation(model, answer, lambda: None, rows=2, budget_s=0.01)
    runs = len(found.whole_ms)
    assert (found.tokens, len(found.first_token_ms), len(found.token_ms)) == (5, runs, 4 * runs)
    assert sum(found.whole_ms) >= sum(found.first_token_ms) + sum(found.token_ms)
    assert found.tokens_per_s == pytest.approx(2 * 5 / found.whole_s)
    assert found.whole_s < 0.5  # what is done beside it is not in it
    assert "generate" not in vars(model)


def test_what_does_not_generate_says_so() -> None:
    with pytest.raises(NoGeneration, match=r"Llama.* are not generated"):
        time_generation(llama(), lambda: None, lambda: None, rows=2, budget_s=0.01)


def test_operations_are_those_of_products_and_of_attention_whatever_its_implementation() -> None:
    linear = torch.nn.Linear(8, 16)
    assert count_flops(linear, {"input": torch.ones(4, 8)}) == 2 * 4 * 8 * 16
    assert count_flops(llama("sdpa"), IDS) == count_flops(llama("eager"), IDS) > 0
    assert count_flops(torch.nn.ReLU(), {"input": torch.ones(4)}) == 0


def test_operations_are_counted_where_a_module_reads_a_view_of_a_parameter() -> None:
    class Queries(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.queries, self.linear = torch.nn.Parameter(torch.ones(1, 8)), torch.nn.Linear(8, 16)

        def forward(self) -> torch.Tensor:
            return self.linear(self.queries.expand(4, -1))

    module = Queries()
    assert count_flops(module, {}) == 2 * 4 * 8 * 16
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_the_peak_of_a_device_is_measured_once_for_each_dtype() -> None:
    assert peak_flops(CPU, torch.float32) == peak_flops(CPU, torch.float32) > 0
    assert peak_flops(CPU, torch.float64) != peak_flops(CPU, torch.float32)


def test_memory_is_that_of_the_process_where_the_device_counts_none() -> None:
    reset_peak(CPU)
    assert peak_device_mb(CPU) is None
    assert peak_process_mb() > 50


def test_eager_torch_has_nothing_to_be_compared_with_and_other_runtimes_have_eager_torch() -> None:
    case = Case("bert")
    case.check("loading")
    assert case.measured.speedup == "it is eager torch itself"
    assert case.case_record().speedup is None
    assert "it is eager torch itself" in repr(case.show_timings())


@pytest.mark.slow
def test_a_graph_is_compared_with_eager_torch_and_says_what_making_it_took() -> None:
    pytest.importorskip("onnxruntime")
    case = Case("bert", target="onnxruntime-cpu", sweep="batch=2;length=20")
    case.check("loading")
    assert isinstance(case.measured.speedup, Speedup)
    record = case.case_record()
    assert record.speedup is not None and record.speedup_low is not None and record.speedup_high is not None
    assert record.speedup_low <= record.speedup <= record.speedup_high
    assert set(record.prepare_s) >= {"export", "convert"}
    assert "does not generate" in str(case.measured.generation)
    assert [point.reason for point in case.points] == [""]
