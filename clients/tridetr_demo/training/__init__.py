"""Train the bundled model, a compact RF-DETR, on synthetic scenes.

Needs the packages of the extra `train`. Run it with `python -m tridetr_demo.training`.
"""
