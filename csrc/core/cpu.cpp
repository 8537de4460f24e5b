#include "core/cpu.h"

#include <cstdlib>

#include "core/check.h"

namespace sparsekit {

namespace {
constexpr Isa kAll[] = {Isa::scalar,     Isa::avx2,        Isa::avx512,    Isa::avx512vpopcntdq,
                        Isa::avx512vnni, Isa::avx512vbmi2, Isa::avx512bf16};
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::scalar: return "scalar";
    case Isa::avx2: return "avx2";
    case Isa::avx512: return "avx512";
    case Isa::avx512vpopcntdq: return "avx512vpopcntdq";
    case Isa::avx512vnni: return "avx512vnni";
    case Isa::avx512vbmi2: return "avx512vbmi2";
    case Isa::avx512bf16: return "avx512bf16";
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
  }
  return false;
#else
  return isa == Isa::scalar;
#endif
}

Isa isa_limit() {
  const char* asked = std::getenv("SPARSEKIT_ISA");
  if (asked == nullptr || *asked == '\0') return Isa::avx512bf16;
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
#undef SPARSEKIT_FEATURE
#endif
  return found;
}

}  // namespace sparsekit
