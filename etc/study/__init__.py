"""Studies: variants of a training, each with several seeds, from one YAML file; their figures, intervals and pages.

``plan`` reads the file, ``runs`` trains, predicts and scores with the scripts in ``tool/``, ``summary`` counts,
``page`` writes it down.

May import: report, evaluate, config, and what these may import.
"""
