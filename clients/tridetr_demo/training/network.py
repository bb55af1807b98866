"""The compact RF-DETR of the bundled model, a helper head for training, and the export to ONNX."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import RfDetrConfig, RfDetrDinov2Config, RfDetrForObjectDetection

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
DECODER_WIDTH = 128


@dataclass(frozen=True)
class Shape:
    """Size of the network; with the defaults, training takes well under two hours on two CPU cores."""

    resolution: int = 224
    patch: int = 16
    hidden: int = 128
    layers: int = 4
    decoders: int = 3
    queries: int = 30
    groups: int = 4
    classes: int = 4


def build(shape: Shape) -> RfDetrForObjectDetection:
    """Return a new RF-DETR: windowed DINOv2-style backbone, projector, two-stage LW-DETR decoder."""
    backbone = RfDetrDinov2Config(
        hidden_size=shape.hidden, num_hidden_layers=shape.layers, num_attention_heads=shape.hidden // 32, mlp_ratio=3,
        image_size=shape.resolution, patch_size=shape.patch, num_windows=2,
        out_indices=[max(1, shape.layers // 3), 2 * shape.layers // 3, shape.layers], layerscale_value=1.0)  # fmt: skip
    # The class loss counts double: only it teaches the decoder to find each object once
    config = RfDetrConfig(
        backbone_config=backbone,
        d_model=DECODER_WIDTH,
        decoder_layers=shape.decoders,
        decoder_ffn_dim=384,
        decoder_self_attention_heads=4,
        decoder_cross_attention_heads=4,
        decoder_n_points=2,
        num_queries=shape.queries,
        group_detr=shape.groups,
        num_labels=shape.classes,
        dropout=0.0,
        hidden_expansion=0.5,
        c2f_num_blocks=1,
        use_pretrained_backbone=False,
        class_loss_coefficient=2.0,
    )
    return RfDetrForObjectDetection(config)


def fit_positions(state: dict[str, Tensor], shape: Shape) -> bool:
    """Resize the position embeddings of a state to another resolution, in place.

    Training first with small and then with large pictures is the cheapest way to a network that detects small objects.

    Returns:
        Whether the size changed.
    """
    name = next(key for key in state if key.endswith("position_embeddings"))
    kept, side = state[name], shape.resolution // shape.patch
    before = round((kept.shape[1] - 1) ** 0.5)
    if before == side:
        return False
    grid = kept[:, 1:].reshape(1, before, before, -1).permute(0, 3, 1, 2)
    grid = functional.interpolate(grid, (side, side), mode="bicubic", align_corners=False)
    state[name] = torch.cat([kept[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], 1)
    return True


class DenseHead(nn.Module):
    """Predicts class and box at every cell of the feature map; only used in training.

    One-to-one matching gives a network that starts from scratch very few signals per picture. This head gives the
    same features a target at every cell in an object, and is discarded after training.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(width, width, 1)
        self.classes = nn.Conv2d(width, classes, 1)
        self.sides = nn.Conv2d(width, 4, 1)
        nn.init.constant_(self.classes.bias, -3.0)

    def loss(self, features: Tensor, targets: list[dict[str, Tensor]]) -> Tensor:
        """Return the sum of focal class loss and generalised-IoU box loss.

        Args:
            features: float [B, D, h, w].
            targets: Per picture `class_labels` int64 [n] and `boxes` float [n, 4], normalised cxcywh.
        """
        mixed = functional.silu(self.mix(features))
        logits = self.classes(mixed).permute(0, 2, 3, 1)
        sides = functional.softplus(self.sides(mixed)).permute(0, 2, 3, 1) * 0.25
        cells, classes, truth = _assign(targets, logits.shape[1], logits.shape[2])
        wanted = torch.zeros_like(logits)
        wanted[cells[0], cells[1], cells[2], classes] = 1.0
        missed = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        focus = (wanted - logits.sigmoid()).abs().pow(2)
        class_loss = (focus * missed).sum() / max(1, classes.numel())
        if classes.numel() == 0:
            return class_loss
        height, width = logits.shape[1:3]
        centre = torch.stack([(cells[2] + 0.5) / width, (cells[1] + 0.5) / height], -1)
        around = sides[cells]
        boxes = torch.cat([centre - around[:, :2], centre + around[:, 2:]], -1)
        return class_loss + _giou_loss(boxes, truth).mean()


def _assign(
    targets: list[dict[str, Tensor]], height: int, width: int
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor, Tensor]:
    """Assign cells of the feature map to objects; the smallest object wins a cell.

    Returns:
        Picture, row and column of each assigned cell (int64 [P] each), its class int64 [P], and the box of its
        object, float [P, 4] normalised xyxy.
    """
    owner = np.full((len(targets), height, width), -1, np.int64)
    boxes = torch.cat([target["boxes"] for target in targets]).cpu().numpy()
    classes = torch.cat([target["class_labels"] for target in targets])
    pictures = np.repeat(np.arange(len(targets)), [len(target["boxes"]) for target in targets])
    for index in np.argsort(-boxes[:, 2] * boxes[:, 3], kind="stable"):
        cx, cy, w, h = boxes[index]
        # The middle part of the object, at least the cell at its centre
        top, bottom = (int(np.clip((cy + s * 0.4 * h) * height, 0, height - 1)) for s in (-1, 1))
        left, right = (int(np.clip((cx + s * 0.4 * w) * width, 0, width - 1)) for s in (-1, 1))
        owner[pictures[index], top : bottom + 1, left : right + 1] = index
    picture, row, column = (
        torch.from_numpy(part).to(classes.device) for part in np.nonzero(owner >= 0)
    )
    objects = owner[owner >= 0]
    low, high = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    truth = torch.from_numpy(np.concatenate([low, high], 1)[objects]).to(classes.device)
    return (picture, row, column), classes[torch.from_numpy(objects).to(classes.device)], truth


def _giou_loss(boxes: Tensor, truth: Tensor) -> Tensor:
    low, high = torch.maximum(boxes[:, :2], truth[:, :2]), torch.minimum(boxes[:, 2:], truth[:, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    area = (
        (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(-1)
        + (truth[:, 2:] - truth[:, :2]).prod(-1)
        - shared
    )
    hull = (
        torch.maximum(boxes[:, 2:], truth[:, 2:]) - torch.minimum(boxes[:, :2], truth[:, :2])
    ).prod(-1)
    return 1 - shared / area.clamp(min=1e-7) + (hull - area) / hull.clamp(min=1e-7)


def normalise(pixels: Tensor) -> Tensor:
    """Convert uint8 [B, R, R, 3] to the network's input, float32 [B, 3, R, R]."""
    mean = torch.tensor(IMAGENET_MEAN, device=pixels.device)
    std = torch.tensor(IMAGENET_STD, device=pixels.device)
    return ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


class _Outputs(nn.Module):
    """Returns the two outputs of every RF-DETR export: boxes (normalised cxcywh) and logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        out: Any = self.model(pixel_values=pixels)
        return out.pred_boxes, out.logits


def export(trained: RfDetrForObjectDetection, shape: Shape, path: Path) -> None:
    """Write the network as ONNX: `input` [B, 3, R, R] to `dets` [B, Q, 4] and `labels` [B, Q, C], opset 17.

    Args:
        trained: The network.
        shape: Its shape. The resolution may be larger than that of the training: small objects then cover more
            patches, but inference is slower.
        path: File to write.
    """
    state = trained.state_dict()
    fit_positions(state, shape)
    model = build(shape)
    model.load_state_dict(state)
    model.eval()
    for module in model.modules():
        if hasattr(module, "interpolate_pos_encoding"):
            # Tracing would emit an antialiased bicubic resize, which ONNX does not have; the size is fixed anyway
            module.interpolate_pos_encoding = (lambda kept: lambda *_: kept.position_embeddings)(
                module
            )
    example = torch.randn(1, 3, shape.resolution, shape.resolution)
    with torch.no_grad():
        torch.onnx.export(
            _Outputs(model).eval(), (example,), str(path), input_names=["input"], output_names=["dets", "labels"],
            opset_version=17, dynamo=False, dynamic_axes={name: {0: "B"} for name in ("input", "dets", "labels")},
        )  # fmt: skip
