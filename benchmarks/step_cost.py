"""What a training step of each method costs, in time and memory, relative to plain fine-tuning.

    python benchmarks/step_cost.py [--steps 15] [--batch-size 16] [--length 64] [--under plain] [--method SMART ...]
                                   [--size small] [--device cpu]

Model: a BERT of 6 layers, width 384 (`small`, 22.7 M parameters, P), or of the size of BERT-base (`base`, 109.5 M),
random weights, random tokens, one torch thread, float32. Times on the CPU are of the processor, so that other work on
the machine disturbs them little; on a GPU they end when it is done. After two warm-up rounds, steps alternate vanilla,
plain, method, vanilla, plain, ...; methods that switch dropout off are compared at dropout 0. Columns:

* ratio: median and range of the method's step over vanilla's of the same round (both with fused AdamW and clipping);
* passes: forward and backward, as the method declares them;
* quotient: the ratio over the cost of a vanilla step that makes these passes (its own parts are timed in the same
  process); below 1 where a backward pass stops at the embeddings;
* to plain: the method's step over that of a plain loop with PyTorch's default AdamW and no clipping, the base of
* released: the released code's step over that plain step, same model, batch and length, where it was measured;
* held, peak: tensors kept between steps, and the highest allocation within one, beyond vanilla's, in units of P;
* bytes: held per weight matrix entry of the linear layers.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.nn.utils import clip_grad_norm_
from transformers import BertConfig, BertForSequenceClassification

from finetune_reg.building_blocks.parameter_groups import weight_decay_groups
from finetune_reg.method import FineTuningMethod, TrainingContext
from finetune_reg.methods import (
    L2SP,
    R3F,
    SAM,
    SMART,
    AttentionGuidedWeightMixup,
    ChildTuningD,
    ChildTuningF,
    DPSDense,
    DPSMix,
    FreeLB,
    GaussianDropout,
    HeadFirst,
    HyPe,
    LayerwiseLearningRateDecay,
    LowRankAdaptation,
    Mixout,
    NEFTune,
    PretrainedInterpolation,
    PretrainedWeightDecay,
    RDrop,
    RecAdam,
    SelectiveProjectionDecay,
    Vanilla,
    WeightAveraging,
)

N_UPDATES = 468  # three epochs of RTE at batch 16: a DPS stage of 23 updates


@dataclass(frozen=True)
class Row:
    """A line of the table: how to build the method, and the released code's ratio."""

    build: Callable[[], FineTuningMethod]
    released: float | None = None
    without_dropout: bool = False
    whole_cycle: int | None = None


ROWS = {
    "vanilla again (control)": Row(Vanilla),
    "Mixout(0.7)": Row(lambda: Mixout(0.7), 1.056, without_dropout=True),
    "Mixout.official(0.7)": Row(lambda: Mixout.official(0.7), 1.056, without_dropout=True),
    "DPSDense(), a whole cycle": Row(DPSDense, 1.065, without_dropout=True, whole_cycle=46),
    "DPSMix(), a whole cycle": Row(DPSMix, 1.057, without_dropout=True, whole_cycle=46),
    "ChildTuningF(0.3)": Row(lambda: ChildTuningF(0.3), 1.319),
    "ChildTuningD(0.3)": Row(lambda: ChildTuningD(0.3), 1.020),
    "L2SP(0.1)": Row(lambda: L2SP(0.1)),
    "PretrainedWeightDecay(0.01)": Row(lambda: PretrainedWeightDecay(0.01), 1.015),
    "SelectiveProjectionDecay()": Row(SelectiveProjectionDecay),
    "RecAdam()": Row(RecAdam, 1.003),
    "LayerwiseLearningRateDecay()": Row(LayerwiseLearningRateDecay),
    "LowRankAdaptation()": Row(LowRankAdaptation),
    "LowRankAdaptation(all linear)": Row(lambda: LowRankAdaptation(targets="all_linear")),
    "LowRankAdaptation(all linear, DoRA)": Row(
        lambda: LowRankAdaptation(targets="all_linear", config={"use_dora": True})
    ),
    "WeightAveraging(tail_fraction=1)": Row(lambda: WeightAveraging(tail_fraction=1.0)),
    "WeightAveraging(exponential)": Row(lambda: WeightAveraging("exponential")),
    "WeightAveraging(bias_corrected)": Row(lambda: WeightAveraging("bias_corrected")),
    "PretrainedInterpolation()": Row(PretrainedInterpolation),
    "HeadFirst(), fine-tuning": Row(HeadFirst),
    "GaussianDropout(0.1)": Row(lambda: GaussianDropout(0.1)),
    "SMART(), without teacher": Row(lambda: SMART(proximal_strength=0.0), 2.687),
    "SMART()": Row(SMART),
    "SMART.official()": Row(SMART.official, 2.666),
    "R3F()": Row(R3F, 1.906),
    "RDrop()": Row(RDrop, 1.941),
    "FreeLB(), 2 passes": Row(lambda: FreeLB(n_passes=2), 2.010),
    "FreeLB(), 3 passes": Row(lambda: FreeLB(n_passes=3), 2.959),
    "SAM()": Row(SAM),
    "SAM.official('asam')": Row(lambda: SAM.official("asam")),
    "NEFTune()": Row(NEFTune),
    "HyPe()": Row(HyPe),
    "AttentionGuidedWeightMixup(), fine-tuning": Row(
        lambda: AttentionGuidedWeightMixup(n_searches=1, search_epochs=1.0), 1.807
    ),
}


def with_adapter(model: torch.nn.Module) -> torch.nn.Module:
    """Let low-rank adapters of rank 8 in all linear layers of the backbone, and the head, train alone."""
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig("SEQ_CLS", r=8, lora_alpha=16, target_modules=r".*(query|key|value|dense)"))


def checkpointed(model: torch.nn.Module) -> torch.nn.Module:
    """Compute activations anew in the backward pass."""
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


SIZES = {
    "small": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    "base": {},
}
UNDER = {"plain": lambda model: model, "lora": with_adapter, "checkpointing": checkpointed}


class Host:
    """One model in training with one method."""

    def __init__(
        self,
        method: FineTuningMethod,
        batch: dict[str, torch.Tensor],
        under: str,
        size: str,
        plain: bool = False,
    ) -> None:
        torch.manual_seed(0)
        self.device = batch["labels"].device
        config = BertConfig(**SIZES[size], num_labels=2)
        self.model = UNDER[under](BertForSequenceClassification(config)).to(self.device).train()
        examples = [{name: tensor[i] for name, tensor in batch.items()} for i in range(len(batch["labels"]))] * 5
        context = TrainingContext(examples, _stack, len(batch["labels"]), 2e-5, 0.01, N_UPDATES)
        self.method, self.batch, self.plain = method, batch, plain
        start = self.clock()
        method.setup(self.model, context)
        self.setup_seconds = self.clock() - start
        self.model.train()
        if plain:
            self.optimizer = torch.optim.AdamW(weight_decay_groups(self.model, 0.01), lr=2e-5)
        else:
            self.optimizer = method.create_optimizer(self.model, context)
        self.parts = {"forward": [], "backward": []}

    def clock(self) -> float:
        """Return seconds: of the processor on a CPU, else when the GPU has done all that it was given."""
        if self.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def step(self) -> float:
        """Make one update and return its seconds."""
        start = self.clock()
        outputs = self.model(**self.batch)
        self.parts["forward"].append(self.clock() - start)
        loss = self.method.training_loss(self.model, self.batch, outputs)
        before_backward = self.clock()
        loss.backward()
        self.parts["backward"].append(self.clock() - before_backward)
        self.method.after_backward(self.model)
        if not self.plain:
            clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.method.after_step(self.model, self.optimizer)
        self.optimizer.zero_grad()
        return self.clock() - start

    def memory(self) -> tuple[int, int]:
        """Return the bytes held between steps and the highest allocation within one, held bytes included."""
        gc.collect()
        held = live_tensor_bytes()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
            self.step()
            return held, held + torch.cuda.max_memory_allocated(self.device) - before
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            self.step()
        allocated = peak = 0
        for event in sorted(
            (event for event in profile.events() if event.name == "[memory]"), key=lambda event: event.time_range.start
        ):
            allocated += event.cpu_memory_usage
            peak = max(peak, allocated)
        return held, held + peak


def live_tensor_bytes() -> int:
    """Return the bytes of all storages that Python still refers to."""
    storages = {}
    for found in gc.get_objects():
        if isinstance(found, torch.Tensor):
            storages[found.untyped_storage().data_ptr()] = found.untyped_storage().nbytes()
    return sum(storages.values())


def measured_memory(
    build: Callable[[], FineTuningMethod], batch: dict[str, torch.Tensor], under: str, size: str
) -> tuple[int, int]:
    gc.collect()
    others = live_tensor_bytes()
    host = Host(build(), batch, under, size)
    for _ in range(3):
        host.step()
    held, peak = host.memory()
    return held - others, peak - others


def _stack(examples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([example[name] for example in examples]) for name in examples[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--under", choices=UNDER, default="plain", help="What vanilla and the methods train under.")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1.")
    parser.add_argument("--method", nargs="*", help="Only rows whose name contains one of these.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    shape = (arguments.batch_size, arguments.length)
    batch = {
        "input_ids": torch.randint(30522, shape),
        "attention_mask": torch.ones(shape, dtype=torch.long),
        "labels": torch.randint(2, shape[:1]),
    }
    batch = {name: tensor.to(arguments.device) for name, tensor in batch.items()}
    rows = {n: row for n, row in ROWS.items() if not arguments.method or any(m in n for m in arguments.method)}
    model_of = (batch, arguments.under, arguments.size)
    baseline = {off: measured_memory(lambda off=off: _vanilla(off), *model_of) for off in (False, True)}
    hosts = {off: (Host(_vanilla(off), *model_of), Host(_vanilla(off), *model_of, plain=True)) for off in (False, True)}
    model = hosts[False][0].model
    unit = 4 * sum(parameter.numel() for parameter in model.parameters())
    n_linear = sum(module.weight.numel() for module in model.modules() if isinstance(module, torch.nn.Linear))
    table = Table("method", "ratio (range)", "passes", "quotient", "to plain", "released", "held", "peak", "bytes")
    for name, row in track(rows.items(), "methods", console=Console(stderr=True)):
        held, peak = measured_memory(row.build, *model_of)
        held, peak = (ours - theirs for ours, theirs in zip((held, peak), baseline[row.without_dropout], strict=True))
        host, (vanilla, plain) = Host(row.build(), *model_of), hosts[row.without_dropout]
        for part in vanilla.parts.values():
            part.clear()
        n_rounds = row.whole_cycle or arguments.steps + 2
        rounds = [(vanilla.step(), plain.step(), host.step()) for _ in range(n_rounds)]
        rounds = rounds if row.whole_cycle else rounds[2:]
        ratios = [ours / theirs for theirs, _, ours in rounds]
        vanilla_seconds, plain_seconds, method_seconds = zip(*rounds, strict=True)
        ratio = _ratio(method_seconds, vanilla_seconds, row.whole_cycle)
        step = statistics.median(vanilla_seconds)
        forward, backward = (statistics.median(vanilla.parts[part]) for part in ("forward", "backward"))
        n_forward, n_backward = host.method.passes_per_update
        required = 1 + ((n_forward - 1) * forward + (n_backward - 1) * backward) / step
        table.add_row(
            name,
            f"{ratio:.3f} ({min(ratios):.2f}-{max(ratios):.2f})",
            f"{n_forward} + {n_backward}",
            f"{ratio / required:.3f}",
            f"{_ratio(method_seconds, plain_seconds, row.whole_cycle):.3f}",
            "" if row.released is None else f"{row.released:.3f}",
            f"{held / unit:.3f}",
            f"{peak / unit:.2f}",
            f"{held / n_linear:.1f}",
        )
        if isinstance(host.method, AttentionGuidedWeightMixup):
            iterations = len(host.method.search_log)
            per_iteration = host.setup_seconds / iterations / step
            table.add_row(
                "  a search iteration", f"{per_iteration:.2f}", "5 + 5", f"{per_iteration / 5:.3f}", "", "10.03"
            )
        host.method.finalize(host.model)
    Console(width=150).print(table)


def _ratio(ours: tuple[float, ...], theirs: tuple[float, ...], whole_cycle: int | None) -> float:
    """Return the median ratio of neighbours; over a whole cycle, whose steps differ, the ratio of the sums."""
    if whole_cycle:
        return sum(ours) / sum(theirs)
    return statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))


def _vanilla(without_dropout: bool) -> Vanilla:
    return Vanilla(dropout=0.0 if without_dropout else None)


if __name__ == "__main__":
    main()
