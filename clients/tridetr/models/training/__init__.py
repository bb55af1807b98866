"""Training of the bundled model: a compact RF-DETR that learns from drawn scenes.

Needs the packages of the extra `training` (torch, transformers, scipy, onnx); run `python -m tridetr.models.training`.
"""
