"""Package metadata of the ETC toolkit."""

from setuptools import find_packages, setup

ONNX = ["onnx>=1.17", "onnxscript>=0.3", "onnxruntime>=1.20"]  # tool/export_onnx.py

setup(
    name="etc-segmentation",
    version="1.0.0",
    description="Efficient temporal consistency: train per-frame segmentation networks that do not flicker",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["etc", "etc.*", "model", "model.*", "flownet", "flownet.*", "utils"]),
    package_data={"etc.report": ["templates/*.html"], "flownet": ["cuda/*.cu", "cuda/*.cuh"]},
    install_requires=[
        "torch>=2.6",
        "torchvision>=0.21",
        "numpy>=1.26",
        "opencv-python-headless>=4.8",
        "pillow>=10",
        "pydantic>=2.5",
        "PyYAML>=6",
        "av>=14",
        "tqdm>=4.60",
        "tensorboard>=2.14",
        "jinja2>=3",
        "matplotlib>=3.7",
    ],
    extras_require={
        "cuda": ["cupy-cuda13x"],
        "onnx": ONNX,
        "dev": [
            "pytest>=7",
            "pytest-xdist>=3",
            "ruff>=0.6",
            "torchmetrics>=1.2",
            "scipy>=1.10",
            "selenium>=4.11",
            *ONNX,
        ],
    },
)
