"""Builds the compiled inner loops where there is a C compiler; without one the package works all the same."""

from Cython.Build import cythonize
from setuptools import Extension, setup

extensions = cythonize(
    [Extension("marketprism_ray._hot", ["marketprism_ray/_hot.pyx"], extra_compile_args=["-O3"])],
    compiler_directives={"language_level": "3"},
)
for extension in extensions:
    extension.optional = True

setup(ext_modules=extensions)
