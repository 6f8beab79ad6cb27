"""ETC, Efficient Temporal Consistency: trains per-frame segmentation networks whose predictions are stable over time.

Where to find what. Modules import only from their own room and from those above it in this list:

    metrics         mIoU, temporal and video consistency, bootstrap intervals; imports nothing else of etc
    errors          UserError and ConfigError: what scripts show as one line
    distributed     ranks, process group, the device of this process
    interrupts      Ctrl-C while a script imports its modules
    config/         settings: sections and keys, YAML files, overrides, the published format
    motion          visibility mask and motion loss
    weights         catalogue of weight files: source, hash, licence
    data/           lists, frames, labels, transforms, the training data set, videos, the synthetic world
    networks        settings -> network with its weights
    cli             what all scripts share: arguments, --help, user errors, exit codes
    display/        label maps as pictures, mp4 video, text tables
    flow/           optical flow: estimators, files, the cache, accuracy
    predict/        per-frame prediction: clips, demo, ONNX export
    evaluate/       scores of predictions and of networks: temporal consistency, mIoU
    train/          the training loop, its step, distillation, checkpoints
    pseudo_labels/  labels for unlabelled video from a teacher
    report/         checkpoints side by side: table, JSON, CSV, HTML
    study/          variants of a training with several seeds: runs, intervals, pages
    benchmark/      speed and memory against the budgets

Below the toolkit are three packages that know nothing of it or of each other: ``model`` (segmentation networks),
``flownet`` (FlowNet2 and its operators) and ``utils`` (training criteria in ``crit.py``, and small helpers).
The scripts in ``tool/`` use this toolkit and hold no logic. ``make lint`` checks the import rules (pyproject.toml).
"""

__version__ = "1.1.0"
