"""Scoring of predictions: clips (temporal consistency), labelled frames (mIoU), and validation during training.

``metric_list`` names every metric of clips; ``clip_metrics`` counts them frame by frame, ``clips`` runs over all
clips, whose parts (``clip_parts``) may be counted in several processes (``workers``), ``results`` holds and stores what
comes out, ``tables`` prints it.

May import: predict, flow, and what these may import.
"""
