"""Metadata of the distribution cloudify-libvirt-plugin."""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "([^"]+)"', (HERE / "cloudify_libvirt/__init__.py").read_text())
assert VERSION is not None

TEMPLATES = "cloudify_libvirt.templates"
TYPES = "cloudify_libvirt.types"


class BuildPy(build_py):  # type: ignore[misc]
    """Put plugin*.yaml into the package too: an upload to a Manager wants them at the top level."""

    def run(self) -> None:
        """Build as usual; an editable install finds the files in the checkout."""
        super().run()
        if not self.editable_mode:
            for name in sorted(path.name for path in HERE.glob("plugin*.yaml")):
                self.copy_file(str(HERE / name), str(Path(self.build_lib) / "cloudify_libvirt" / name))


setup(
    name="cloudify-libvirt-plugin",
    version=VERSION.group(1),
    description="Cloudify plugin for libvirt: networks, storage, virtual machines and containers from a blueprint",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[*find_packages(include=["cloudify_libvirt", "cloudify_libvirt.*"]), TEMPLATES, TYPES],
    # templates/ and types/ stand at the top level of a checkout and inside the package of a wheel.
    package_dir={TEMPLATES: "templates", TYPES: "types"},
    package_data={
        TEMPLATES: ["*.j2", "device/*.j2", "domain/*.j2"],
        TYPES: ["*.yaml"],
        "cloudify_libvirt": ["py.typed", "images.yaml"],
    },
    cmdclass={"build_py": BuildPy},
    install_requires=[
        "libvirt-python",
        "lxml",
        "jinja2>=3.1",
        "pyyaml",
        "pydantic>=2.5",
        "requests",
        "pycdlib",
        "filelock",
        "platformdirs",
        "zstandard",
    ],
    extras_require={
        # cfy 7.0.5 imports pkg_resources, which setuptools dropped in 81.
        "local": ["cloudify-common", "cloudify", "setuptools<81"],
        "cli": ["click", "rich"],
        "test": [
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "hypothesis",
            "ruff",
            "mypy",
            "lxml-stubs",
            "types-PyYAML",
            "types-requests",
        ],
    },
    entry_points={
        "console_scripts": ["cfy-libvirt=cloudify_libvirt.cli.main:main"],
        # cfy loads these when it starts; see the module.
        "cloudify.tosca.ext.functions": ["cloudify_libvirt_version=cloudify_libvirt.local_guard:plugin_version"],
    },
    classifiers=["License :: OSI Approved :: Apache Software License", "Programming Language :: Python :: 3.11"],
)
