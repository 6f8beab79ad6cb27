from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel


class NoWheel(bdist_wheel):
    """A wheel would lack configs/, data/ and tool/, and fail at its first call."""

    def run(self) -> None:
        raise SystemExit(
            "etc-segmentation is used from its clone, with its configs, lists and scripts: "
            "git clone the repository, and run 'pip install -e .' in it"
        )


setup(cmdclass={"bdist_wheel": NoWheel})  # everything else is in pyproject.toml
