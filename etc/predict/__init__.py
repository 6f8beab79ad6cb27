"""Per-frame prediction: the predictor, the clips to be scored, a demo on any input, ONNX export.

May import: flow, display, and what these may import.
"""
