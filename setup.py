"""Builds sparsekit._C: one binary, every instruction set, chosen at run time.

Environment:
    SPARSEKIT_BUILD_ISAS    comma-separated instruction sets to build beside scalar (default: all the compiler knows)
    SPARSEKIT_NO_EXTENSION  set to 1 to install without native kernels
    SPARSEKIT_WERROR        set to 1 to make compiler warnings errors
"""

import os
import platform
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pybind11 import get_include
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

AVX2 = ["-mavx2", "-mfma", "-mpopcnt"]
# GCC 12's own AVX-512 headers trip its check for uninitialised variables (GCC bug 105593).
AVX512 = [
    *AVX2,
    "-mavx512f",
    "-mavx512bw",
    "-mavx512dq",
    "-mavx512vl",
    "-Wno-maybe-uninitialized",
    "-Wno-uninitialized",
]
ISA_FLAGS = {
    "scalar": [],
    "avx2": AVX2,
    "avx512": AVX512,
    "avx512vpopcntdq": [*AVX512, "-mavx512vpopcntdq"],
    "avx512bf16": [*AVX512, "-mavx512bf16"],
}
BASE_FLAGS = ["-std=c++17", "-O3", "-fvisibility=hidden", "-Wall", "-Wextra"]
ON_X86 = platform.machine().lower() in {"x86_64", "amd64"}


def isa_of(source: str) -> str:
    """The instruction set that a source is named after, or scalar."""
    suffix = Path(source).stem.rsplit("_", 1)[-1]
    return suffix if suffix in ISA_FLAGS else "scalar"


class BuildNative(build_ext):
    """Compiles each source with the flags of its instruction set."""

    def build_extension(self, extension: Extension) -> None:
        """Compile what this compiler and processor family can, and link it."""
        common = [*BASE_FLAGS, *(["-Werror"] if os.environ.get("SPARSEKIT_WERROR") == "1" else [])]
        if self.compiles("int main() { return 0; }", ["-fopenmp"]):
            # Compiled for OpenMP but linked to no OpenMP library: the symbols resolve to the pool that torch has
            # loaded, so torch.set_num_threads holds and two pools never fight.
            common.append("-fopenmp")
        isas = self.isas()
        macros = [(f"SPARSEKIT_WITHOUT_{isa}", None) for isa in ISA_FLAGS if isa not in isas]
        sources = [s for s in extension.sources if isa_of(s) in isas]

        def compile_one(source: str) -> list[str]:
            return self.compiler.compile(
                [source],
                output_dir=self.build_temp,
                macros=macros,
                include_dirs=extension.include_dirs,
                extra_postargs=[*common, *ISA_FLAGS[isa_of(source)]],
            )

        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            objects = [path for paths in pool.map(compile_one, sources) for path in paths]
        strip = ["-Wl,-s"] if sys.platform == "linux" else []
        target = Path(self.get_ext_fullpath(extension.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        # Linked beside its place and moved there in one step: a process that runs the old one keeps it.
        linked = target.with_name(f"{target.name}.new")
        self.compiler.link_shared_object(objects, str(linked), extra_postargs=strip, target_lang="c++")
        linked.replace(target)

    def isas(self) -> list[str]:
        """Scalar, and those asked for that the compiler knows."""
        asked = os.environ.get("SPARSEKIT_BUILD_ISAS")
        wanted = [i.strip() for i in asked.split(",") if i.strip()] if asked is not None else list(ISA_FLAGS)
        unknown = sorted(set(wanted) - set(ISA_FLAGS))
        if unknown:
            raise SystemExit(f"SPARSEKIT_BUILD_ISAS: expected some of {', '.join(ISA_FLAGS)}, got {', '.join(unknown)}")
        probe = "#include <immintrin.h>\nint main() { return 0; }"
        return [
            i for i in ISA_FLAGS if i == "scalar" or (i in wanted and ON_X86 and self.compiles(probe, ISA_FLAGS[i]))
        ]

    def compiles(self, code: str, flags: list[str]) -> bool:
        """Whether the compiler takes ``code`` with ``flags``."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.cpp")
            source.write_text(code)
            command = [*self.compiler.compiler_so, *flags, "-c", str(source), "-o", str(Path(folder, "probe.o"))]
            return subprocess.run(command, capture_output=True, check=False).returncode == 0


def extensions() -> list[Extension]:
    """The extension, or none where it was declined."""
    if os.environ.get("SPARSEKIT_NO_EXTENSION") == "1":
        return []
    root = Path(__file__).parent
    sources = sorted(str(p.relative_to(root)) for p in (root / "csrc").rglob("*.cpp"))
    headers = sorted(str(p.relative_to(root)) for p in (root / "csrc").rglob("*") if p.suffix in {".h", ".def"})
    return [Extension("sparsekit._C", sources, include_dirs=["csrc", get_include()], depends=headers, language="c++")]


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildNative})
