// Which instruction sets this process may use: built in, offered by the processor, not forced down.
#pragma once

#include <string>
#include <vector>

namespace sparsekit {

// Ordered: a higher one is tried first.
enum class Isa {
  scalar = 0,
  avx2 = 1,
  avx512 = 2,
  avx512vpopcntdq = 3,
  avx512vnni = 4,
  avx512vbmi2 = 5,
  avx512bf16 = 6,
  avx512bitalg = 7,
  amx = 8,
};

const char* isa_name(Isa isa);

// Whether the processor and the operating system run `isa`, and gain by it.
bool cpu_runs(Isa isa);

// The highest level that SPARSEKIT_ISA allows; its value is read at each call. Throws on an unknown name.
Isa isa_limit();

// Every instruction set of interest that the processor offers, for reports.
std::vector<std::string> cpu_features();

}  // namespace sparsekit
