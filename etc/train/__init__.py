"""Training: the loop, its step (segmentation, motion and distillation losses), the teacher cache, and checkpoints.

``build`` makes the parts from the settings, ``trainer`` runs them, ``step`` computes the loss of one batch.

May import: evaluate, predict, flow, and what these may import.
"""
