"""The training loop: one process per core, averaged gradients, weights averaged over time; resumable."""

from __future__ import annotations

import copy
import json
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, distributed
from transformers import RfDetrForObjectDetection

from tridetr_demo.training.network import (
    DECODER_WIDTH,
    DenseHead,
    Shape,
    build,
    export,
    fit_positions,
    normalise,
)
from tridetr_demo.training.pool import CLASS_IDS, ScenePool, Scenes, draw_scenes
from tridetr_demo.training.score import Matcher

CHUNK_STEPS = 100
FIRST_CHUNKS = 8
WARM_UP_STEPS = 300
DENSE_WEIGHT = 2.0
FLAT = 0.45
EMA_DECAY = 0.998


@dataclass(frozen=True)
class Options:
    """Options of the command line; the bundled model was trained with the defaults."""

    out: Path
    steps: int = 9000
    batch: int = 5
    processes: int = 2
    lr: float = 6e-4
    seed: int = 1
    resolution: int = 224
    export_resolution: int = 384
    patch: int = 16
    hidden: int = 128
    layers: int = 4
    decoders: int = 3
    queries: int = 30
    groups: int = 4
    every: int = 500
    validation: int = 200

    def shape(self) -> Shape:
        return Shape(
            self.resolution,
            self.patch,
            self.hidden,
            self.layers,
            self.decoders,
            self.queries,
            self.groups,
            len(CLASS_IDS),
        )


def _losses(
    model: RfDetrForObjectDetection, dense: DenseHead, scenes: Scenes, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return RF-DETR's own loss plus that of the helper head, for one batch."""
    images = normalise(torch.from_numpy(scenes.pixels).to(device))
    targets = [
        {
            "class_labels": torch.from_numpy(labels).to(device),
            "boxes": torch.from_numpy(boxes).to(device),
        }
        for labels, boxes in zip(scenes.labels, scenes.boxes, strict=True)
    ]
    out = model(pixel_values=images, labels=targets)
    return out.loss, dense.loss(out.backbone_features, targets)


def _average_gradients(parameters: list[torch.nn.Parameter]) -> None:
    """Set the gradients of every process to the mean over all processes, in one message."""
    present = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([grad.flatten() for grad in present])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for parameter, part in zip(
        parameters, flat.split([p.numel() for p in parameters]), strict=True
    ):
        parameter.grad = part.view_as(parameter)


def _corners(boxes: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.concatenate(
        [boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1
    )


@torch.no_grad()  # type: ignore[untyped-decorator]  # untyped
def evaluate(
    model: RfDetrForObjectDetection, scenes: Scenes, device: torch.device
) -> dict[str, float]:
    """Return AP50 per class, and the best threshold for people with its precision and recall."""
    model.eval()
    matchers = [Matcher() for _ in CLASS_IDS]
    for start in range(0, len(scenes.boxes), 20):
        out = model(
            pixel_values=normalise(torch.from_numpy(scenes.pixels[start : start + 20]).to(device))
        )
        scores, boxes = out.logits.sigmoid().cpu().numpy(), out.pred_boxes.float().cpu().numpy()
        for row in range(len(scores)):
            truth = _corners(scenes.boxes[start + row])
            for label, matcher in enumerate(matchers):
                matcher.add(
                    _corners(boxes[row]),
                    scores[row, :, label],
                    truth[scenes.labels[start + row] == label],
                )
    curves = [matcher.curve() for matcher in matchers]
    threshold = curves[0].best_threshold()
    precision, recall = curves[0].at(threshold)
    report = {
        f"ap50_{c}": curve.average_precision() for c, curve in zip(CLASS_IDS, curves, strict=True)
    }
    report |= {"threshold": threshold, "precision": precision, "recall": recall}
    return {name: round(value, 4) for name, value in report.items()}


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Return the factor of the learning rate: warm-up, constant, then a cosine decay from the share `FLAT` on."""
    if step < WARM_UP_STEPS:
        return peak * (step + 1) / WARM_UP_STEPS
    done = max(0.0, (step / steps - FLAT) / (1 - FLAT))
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


class _Run:
    """The content of a checkpoint."""

    def __init__(self, options: Options, device: torch.device) -> None:
        torch.manual_seed(options.seed)
        self.path = options.out / "checkpoint.pt"
        self.model = build(options.shape()).to(device).train()
        self.dense = DenseHead(DECODER_WIDTH, len(CLASS_IDS)).to(device)
        self.average = copy.deepcopy(self.model)
        self.parameters = [*self.model.parameters(), *self.dense.parameters()]
        self.optimiser = torch.optim.AdamW(
            self.parameters, lr=options.lr, weight_decay=1e-3, fused=True
        )
        self.step = self.first = 0
        if self.path.exists():
            state = torch.load(self.path, map_location=device, weights_only=True)
            self.step, self.first = int(state["step"]), int(state.get("first", 0))
            fitted = [fit_positions(state[name], options.shape()) for name in ("model", "average")]
            if any(fitted):  # another resolution: a new stage, with its own learning rate
                self.first = self.step
                del state["optimiser"]
            for name, part in self._parts().items():
                if name in state:
                    part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "dense": self.dense,
            "average": self.average,
            "optimiser": self.optimiser,
        }

    def save(self) -> None:
        new = self.path.with_suffix(".new")
        torch.save(
            {name: part.state_dict() for name, part in self._parts().items()}
            | {"step": self.step, "first": self.first},
            new,
        )
        new.replace(self.path)

    def follow(self) -> None:
        """Move the averaged weights slightly towards the current ones."""
        decay = min(EMA_DECAY, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.average.parameters()), list(self.model.parameters()), 1 - decay
            )
            for kept, new in zip(self.average.buffers(), self.model.buffers(), strict=True):
                kept.copy_(new)


def train(rank: int, options: Options) -> None:
    """Train until `options.steps`, from the checkpoint if there is one; rank 0 reports, saves and exports."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    alone = device.type == "cuda" or options.processes == 1
    if not alone:
        torch.set_num_threads(1)
        distributed.init_process_group("gloo", rank=rank, world_size=options.processes)
    console = Console(quiet=rank != 0, width=140, highlight=False)
    run = _Run(options, device)
    console.print(
        f"{sum(p.numel() for p in run.model.parameters()) / 1e6:.2f} M parameters, from step {run.step}: {options}"
    )
    if run.step < options.steps:
        _learn(run, options, rank, alone, console)
    if rank == 0:
        shape = replace(options.shape(), resolution=options.export_resolution)
        export(run.average.cpu(), shape, options.out / "model.onnx")


def _learn(run: _Run, options: Options, rank: int, alone: bool, console: Console) -> None:
    device = next(run.model.parameters()).device
    seed = options.seed + 1000 * rank
    pool = ScenePool(seed, options.resolution, first=run.step // CHUNK_STEPS)
    validation = draw_scenes(
        options.seed + 1_000_003, 0, options.validation if rank == 0 else 1, options.resolution
    )
    for _ in range(FIRST_CHUNKS):
        pool.advance()
    size = options.batch * (options.processes if alone else 1)
    batches = pool.batches(np.random.default_rng([seed, 7, run.step]), size)
    sums, since = np.zeros(2), time.monotonic()
    while run.step < options.steps:
        for group in run.optimiser.param_groups:
            group["lr"] = learning_rate(run.step - run.first, options.steps - run.first, options.lr)
        run.model.train()
        loss, helper = _losses(run.model, run.dense, next(batches), device)
        run.optimiser.zero_grad(set_to_none=True)
        (loss + DENSE_WEIGHT * helper).backward()
        if not alone:
            _average_gradients(run.parameters)
        torch.nn.utils.clip_grad_norm_(run.parameters, 1.0)
        run.optimiser.step()
        run.step += 1
        sums += (loss.item(), helper.item())
        if rank == 0:
            run.follow()
        if run.step % CHUNK_STEPS == 0:
            pool.advance()
            pace, mean = (time.monotonic() - since) / CHUNK_STEPS, sums / CHUNK_STEPS
            console.print(
                f"{time.strftime('%H:%M:%S')} step {run.step} loss {mean[0]:.3f} dense {mean[1]:.3f} {pace:.2f} s/step"
            )
            sums[:], since = 0, time.monotonic()
        if rank == 0 and (run.step % options.every == 0 or run.step == options.steps):
            report = evaluate(run.average, validation, device) | {"step": run.step}
            console.print(json.dumps(report))
            with (options.out / "log.jsonl").open("a") as log:
                log.write(json.dumps(report | {"shape": asdict(options.shape())}) + "\n")
            run.save()
    pool.close()
