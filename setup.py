"""Installs the package ``gpen`` and its commands: ``pip install .``"""

import runpy
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent


def read_requirements() -> list[str]:
    """Return the lines of requirements.txt without comments."""
    lines = (HERE / 'requirements.txt').read_text(encoding='utf-8').splitlines()
    return [text for text in (line.split('#')[0].strip() for line in lines) if text]


def is_optional(requirement: str) -> bool:
    """Whether everything else works without it."""
    return requirement.startswith(('basicsr', 'facexlib', 'onnx>', 'onnxscript', 'torch-fidelity', 'torchmetrics'))


def read_version() -> str:
    """Return the version that the package names."""
    return runpy.run_path(str(HERE / 'codes' / 'gpen' / '__init__.py'))['__version__']


REQUIREMENTS = read_requirements()
RECIPES = 'gpen.recipes'  # the folder options, inside the package

setup(
    name='gpen-trainer',
    version=read_version(),
    description='Training and use of GAN Prior Embedded Networks for blind face restoration',
    long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='MIT',
    python_requires='>=3.10',
    package_dir={'': 'codes', RECIPES: 'options'},
    packages=[*find_packages('codes'), RECIPES, f'{RECIPES}.train', f'{RECIPES}.test'],
    package_data={'gpen.demo': ['*.css'], 'gpen.reporting': ['*.css'], RECIPES: ['*.json'], '': ['*.yml']},
    install_requires=[requirement for requirement in REQUIREMENTS if not is_optional(requirement)],
    extras_require={
        'all': [requirement for requirement in REQUIREMENTS if is_optional(requirement)],
        'datasets': ['datasets>=3'],  # Hugging Face data sets: io_backend {type: datasets}
        'background': ['spandrel>=0.4'],  # restore.py --background_model
        'films': ['av>=16'],  # restore.py on films and animated GIFs
        'demo': ['gradio>=6.30'],  # scripts/demo.py
        'export': ['onnx>=1.17', 'onnxscript>=0.7'],  # export.py --format onnx
        'hub': ['huggingface_hub>=0.23'],  # weights at hf://OWNER/REPO/FILE
        'photographs': ['pillow>=11.3', 'pillow-heif>=0.16'],  # photographs of phones: AVIF and HEIC
        'quality': ['pyiqa>=0.1.10'],  # MUSIQ, TOPIQ and others: metrics {type: calculate_pyiqa, name: musiq}
        'ray': ['ray>=2.10'],  # preparing data on a cluster: prepare_dataset.py --ray
        'wandb': ['wandb>=0.16'],  # logger.wandb
    },
    entry_points={
        'console_scripts': [
            'gpen = gpen.commands.main:main',
            'gpen-train = gpen.commands.train:main',
            'gpen-test = gpen.commands.test:main',
            'gpen-restore = gpen.commands.restore:main',
        ]
    },
)
