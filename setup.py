"""Installs the top-level folders `tasks/` and `evaluators/` as `pe_rlhf_mm.tasks` and `pe_rlhf_mm.evaluators`.

Packages are discovered, not listed by hand, so that a new folder is never missing from a wheel; and the build does not
depend on the two symbolic links in `pe_rlhf_mm/`, which serve uninstalled checkouts, pytest and type checkers.
"""

from setuptools import find_packages, setup

FOLDERS = {"tasks": "pe_rlhf_mm.tasks", "evaluators": "pe_rlhf_mm.evaluators"}

packages = [
    package
    for package in find_packages(include=["pe_rlhf_mm", "pe_rlhf_mm.*"])
    if not package.startswith(tuple(FOLDERS.values()))
]
for folder, name in FOLDERS.items():
    packages += [name, *(f"{name}.{package}" for package in find_packages(folder))]

setup(packages=packages, package_dir={name: folder for folder, name in FOLDERS.items()})
