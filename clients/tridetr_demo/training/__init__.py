"""Training of the bundled model: a compact RF-DETR that learns from drawn scenes.

Needs the packages of the extra `train`; run `python -m tridetr_demo.training`.
"""
