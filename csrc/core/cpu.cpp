#include "core/cpu.h"

#include <cstdlib>
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "core/check.h"

namespace sparsekit {

namespace {
constexpr Isa kAll[] = {Isa::scalar,          Isa::avx2,         Isa::avx512,
                        Isa::avx512vpopcntdq, Isa::avx512vnni,   Isa::avx512vbmi2,
                        Isa::avx512bf16,      Isa::avx512bitalg, Isa::amx};
}

#if defined(__x86_64__)
namespace {

// Whether the processor has AMX for bfloat16 and the operating system keeps its tiles.
bool has_tiles() {
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || (c >> 27 & 1) == 0) return false;  // OSXSAVE
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  const bool tiles = d >> 24 & 1, bf16 = d >> 22 & 1;
  if (!tiles || !bf16) return false;
  unsigned low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  constexpr unsigned kTileState = 3u << 17;
  return (low & kTileState) == kTileState;
}

// Linux grants the tiles to a process that asks for them.
bool asks_for_tiles() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

}  // namespace
#endif

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::scalar: return "scalar";
    case Isa::avx2: return "avx2";
    case Isa::avx512: return "avx512";
    case Isa::avx512vpopcntdq: return "avx512vpopcntdq";
    case Isa::avx512vnni: return "avx512vnni";
    case Isa::avx512vbmi2: return "avx512vbmi2";
    case Isa::avx512bf16: return "avx512bf16";
    case Isa::avx512bitalg: return "avx512bitalg";
    case Isa::amx: return "amx";
  }
  return "unknown";
}

bool cpu_runs(Isa isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  switch (isa) {
    case Isa::scalar: return true;
    case Isa::avx2: return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case Isa::avx512:
      return cpu_runs(Isa::avx2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    case Isa::avx512vpopcntdq:
      // Its one kernel replaces the expand instruction, which is slow on AMD only.
      return cpu_runs(Isa::avx512) && __builtin_cpu_supports("avx512vpopcntdq") && __builtin_cpu_is("amd");
    case Isa::avx512vnni: return cpu_runs(Isa::avx512) && __builtin_cpu_supports("avx512vnni");
    case Isa::avx512vbmi2:
      return cpu_runs(Isa::avx512vnni) && __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2");
    case Isa::avx512bf16: return cpu_runs(Isa::avx512) && __builtin_cpu_supports("avx512bf16");
    case Isa::avx512bitalg:  // counts the bits of words and multiplies in bfloat16
      return cpu_runs(Isa::avx512bf16) && __builtin_cpu_supports("avx512bitalg");
    case Isa::amx: {
      static const bool granted = has_tiles() && asks_for_tiles();
      return granted && cpu_runs(Isa::avx512bf16);
    }
  }
  return false;
#else
  return isa == Isa::scalar;
#endif
}

Isa isa_limit() {
  const char* asked = std::getenv("SPARSEKIT_ISA");
  if (asked == nullptr || *asked == '\0') return Isa::amx;
  std::string names;
  for (Isa isa : kAll) {
    if (std::string(asked) == isa_name(isa)) return isa;
    names += std::string(names.empty() ? "" : ", ") + isa_name(isa);
  }
  check(false, "SPARSEKIT_ISA: expected one of " + names + ", got '" + asked + "'");
  return Isa::scalar;
}

std::vector<std::string> cpu_features() {
  std::vector<std::string> found;
#if defined(__x86_64__)
  __builtin_cpu_init();
  // The builtin takes literals only.
#define SPARSEKIT_FEATURE(name) \
  if (__builtin_cpu_supports(name)) found.push_back(name);
  SPARSEKIT_FEATURE("sse4.2")
  SPARSEKIT_FEATURE("avx2")
  SPARSEKIT_FEATURE("fma")
  SPARSEKIT_FEATURE("avx512f")
  SPARSEKIT_FEATURE("avx512bw")
  SPARSEKIT_FEATURE("avx512dq")
  SPARSEKIT_FEATURE("avx512vl")
  SPARSEKIT_FEATURE("avx512vpopcntdq")
  SPARSEKIT_FEATURE("avx512vnni")
  SPARSEKIT_FEATURE("avx512vbmi2")
  SPARSEKIT_FEATURE("avx512bf16")
  SPARSEKIT_FEATURE("avx512bitalg")
#undef SPARSEKIT_FEATURE
  if (has_tiles()) found.push_back("amx-bf16");
#endif
  return found;
}

}  // namespace sparsekit
