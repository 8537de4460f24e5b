"""Builds sparsekit._C: one binary, every instruction set, chosen at run time; and where nvcc is found sparsekit._cuda.

Environment:
    SPARSEKIT_BUILD_ISAS    comma-separated instruction sets to build beside scalar (default: all the compiler knows)
    SPARSEKIT_CUDA_ARCHS    comma-separated GPU architectures (default: 80,90a); of one without a letter the build keeps
                            the portable code too, which newer GPUs run
    SPARSEKIT_NO_CUDA       set to 1 to install without CUDA kernels; CUDA_HOME says where nvcc is, if not on the path
    SPARSEKIT_NO_EXTENSION  set to 1 to install without native kernels, CUDA included
    SPARSEKIT_WERROR        set to 1 to make compiler warnings errors
"""

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
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
    "avx512vnni": [*AVX512, "-mavx512vnni"],
    "avx512vbmi2": [*AVX512, "-mavx512vnni", "-mavx512vbmi", "-mavx512vbmi2", "-mavx512bitalg"],
    "avx512bitalg": [*AVX512, "-mavx512bf16", "-mavx512bitalg"],
    "amx": ["-mamx-tile", "-mamx-bf16"],
}
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
BASE_FLAGS = ["-std=c++17", "-O3", "-fvisibility=hidden", "-Wall", "-Wextra"]
ON_X86 = platform.machine().lower() in {"x86_64", "amd64"}
OLDEST_NVCC = (12, 5)  # the first that knows mma.sp::ordered_metadata


def nvcc() -> str | None:
    """The CUDA compiler, or None where there is none that is new enough."""
    home = os.environ.get("CUDA_HOME")
    found = (shutil.which("nvcc", path=str(Path(home, "bin"))) if home else None) or shutil.which("nvcc")
    if found is None:
        return None
    told = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"release (\d+)\.(\d+)", told)
    if version is None or (int(version[1]), int(version[2])) < OLDEST_NVCC:
        print(f"sparsekit: no CUDA kernels: expected nvcc {OLDEST_NVCC[0]}.{OLDEST_NVCC[1]} or newer, got {found}")
        return None
    return found


def architectures() -> list[str]:
    """The GPU architectures to build for."""
    asked = os.environ.get("SPARSEKIT_CUDA_ARCHS", "80,90a")
    wanted = [arch.strip() for arch in asked.split(",") if arch.strip()]
    wrong = [arch for arch in wanted if not re.fullmatch(r"(8|9|10|11|12)\d[af]?", arch)]
    if wrong or not wanted:
        raise SystemExit(f"SPARSEKIT_CUDA_ARCHS: expected architectures from 80 on such as 80,90a, got {asked!r}")
    return wanted


def code_for(arch: str) -> str:
    """The option by which nvcc generates code for ``arch``."""
    portable = f",compute_{arch}" if arch.isdigit() else ""
    return f"-gencode=arch=compute_{arch},code=[sm_{arch}{portable}]"


def isa_of(source: str) -> str:
    """The instruction set that a source is named after, or scalar."""
    suffix = Path(source).stem.rsplit("_", 1)[-1]
    return suffix if suffix in ISA_FLAGS else "scalar"


class BuildNative(build_ext):
    """Compiles each source with the flags of its instruction set, and those for the GPU with nvcc."""

    def build_extension(self, extension: Extension) -> None:
        """Compile what this compiler and processor family can, and link it."""
        if extension.name == "sparsekit._cuda":
            self.build_cuda(extension)
        else:
            self.build_native(extension)

    def build_cuda(self, extension: Extension) -> None:
        """Compile with nvcc and link the CUDA runtime in; the driver is found when a kernel is called."""
        archs = architectures()
        errors = ["-Werror=all-warnings"] if os.environ.get("SPARSEKIT_WERROR") == "1" else []
        host = [f"-Xcompiler={flag}" for flag in ("-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra")]
        includes = [f"-I{folder}" for folder in (*extension.include_dirs, *self.compiler.include_dirs)]
        macros = [f'-DSPARSEKIT_CUDA_ARCHS="{",".join(archs)}"']
        macros += [] if "90a" in archs else ["-DSPARSEKIT_WITHOUT_sm90a"]
        compiler = [nvcc(), "-std=c++17", "-O3", *host, *errors, *includes, *macros]
        Path(self.build_temp).mkdir(parents=True, exist_ok=True)

        def compile_one(source: str) -> str:
            own = [arch for arch in archs if arch == "90a" or not source.endswith("_sm90a.cu")]
            target = str(Path(self.build_temp, f"cuda_{Path(source).stem}.o"))
            codes = [code_for(arch) for arch in own] if source.endswith(".cu") else []
            self.spawn([*compiler, *codes, "-c", source, "-o", target])
            return target

        sources = [s for s in extension.sources if "90a" in archs or not s.endswith("_sm90a.cu")]
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            objects = list(pool.map(compile_one, sources))
        linker = [nvcc(), "-shared", "--no-device-link", "-cudart=static", "-Xlinker=-s", *objects, "-o"]
        self.place(extension, lambda linked: self.spawn([*linker, linked]))

    def place(self, extension: Extension, link: Callable[[str], None]) -> None:
        """Link beside the extension's place and move it there in one step: a process that runs the old one keeps it."""
        target = Path(self.get_ext_fullpath(extension.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        linked = target.with_name(f"{target.name}.new")
        link(str(linked))
        linked.replace(target)

    def build_native(self, extension: Extension) -> None:
        """Compile for the instruction sets of the processor."""
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
        link = self.compiler.link_shared_object
        self.place(extension, lambda linked: link(objects, linked, extra_postargs=strip, target_lang="c++"))

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


class CheckNative(BuildNative):
    """Compiles the kernels for the CPU and tests/native for the sanitizers, and runs the tests; needs no Python."""

    def build_extension(self, extension: Extension) -> None:
        """Compile with the compiler that CXX names, without what Python adds, which hides overflows."""
        if extension.name != "sparsekit._C":
            return
        isas, folder = self.isas(), Path(self.build_temp, "check_native")
        folder.mkdir(parents=True, exist_ok=True)
        macros = [f"-DSPARSEKIT_WITHOUT_{isa}" for isa in ISA_FLAGS if isa not in isas]
        macros.append("-DSPARSEKIT_SERIAL_WORK=1")  # several threads from the smallest weight on
        compiler = [*shlex.split(os.environ.get("CXX", "c++")), "-std=c++17", "-O1", "-g1", "-Wall", "-Wextra"]
        compiler += ["-fopenmp", *SANITIZERS, *macros, *(f"-I{part}" for part in extension.include_dirs)]
        sources = [s for s in extension.sources if isa_of(s) in isas and not s.endswith("bindings.cpp")]
        sources += sorted(str(path) for path in Path("tests", "native").glob("*.cpp"))

        def compile_one(source: str) -> str:
            target = str(folder / f"{Path(source).parent.name}_{Path(source).stem}.o")
            self.spawn([*compiler, *ISA_FLAGS[isa_of(source)], "-c", source, "-o", target])
            return target

        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            objects = list(pool.map(compile_one, sources))
        program = str(folder / "check")
        self.spawn([*compiler, *objects, "-o", program])
        self.spawn([program])


def extensions() -> list[Extension]:
    """The extensions, or none where they were declined."""
    if os.environ.get("SPARSEKIT_NO_EXTENSION") == "1":
        return []
    root = Path(__file__).parent
    for_gpu = root / "csrc" / "cuda"

    def files(*suffixes: str) -> list[Path]:
        return sorted(p.relative_to(root) for p in (root / "csrc").rglob("*") if p.suffix in suffixes)

    def of(paths: list[Path], cuda: bool) -> list[str]:
        return [str(p) for p in paths if (for_gpu in (root / p).parents) == cuda]

    native = Extension(
        "sparsekit._C",
        of(files(".cpp"), cuda=False),
        include_dirs=["csrc", get_include()],
        depends=of(files(".h", ".def"), cuda=False),
        language="c++",
    )
    cuda = Extension(
        "sparsekit._cuda",
        of(files(".cpp", ".cu"), cuda=True),
        include_dirs=["csrc/cuda", get_include()],
        depends=of(files(".h", ".cuh"), cuda=True),
        language="c++",
    )
    if os.environ.get("SPARSEKIT_NO_CUDA") == "1" or nvcc() is None:
        return [native]
    architectures()  # a wrong one is said before anything is compiled
    return [native, cuda]


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildNative, "check_native": CheckNative})
