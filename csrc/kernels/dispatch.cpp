#include "kernels/dispatch.h"

#include "core/check.h"

namespace sparsekit {

#define SPARSEKIT_KERNEL(stem, Table, isa) extern const Table stem##_##isa;
#include "kernels.def"
#undef SPARSEKIT_KERNEL

namespace {

struct Line {
  const char* stem;
  Isa isa;
  const void* table;
};

const Line kLines[] = {
#define SPARSEKIT_KERNEL(stem, Table, isa) {#stem, Isa::isa, &stem##_##isa},
#include "kernels.def"
#undef SPARSEKIT_KERNEL
};

// Whether the tiles of this processor do what their emulation does; found out once.
bool tiles_work() {
  static const bool work = [] {
    for (const Line& line : kLines)
      if (line.isa == Isa::amx && line.stem == std::string("block_half"))
        return agree(*static_cast<const BlockHalfKernels*>(line.table), block_half_emulated);
    return false;
  }();
  return work;
}

bool runs(Isa isa) { return cpu_runs(isa) && (isa != Isa::amx || tiles_work()); }

const Line& best(const std::string& stem, Isa most) {
  const Isa limit = isa_limit();
  for (const Line& line : kLines)
    if (stem == line.stem && line.isa <= limit && line.isa <= most && runs(line.isa)) return line;
  check(false, "no kernel of " + stem + " is built for this processor");
  return kLines[0];
}

constexpr Isa kAnyIsa = Isa::amx;

}  // namespace

const ActivationKernels& best_activation() {
  return *static_cast<const ActivationKernels*>(best("activation", kAnyIsa).table);
}

const CsrRowsKernels& best_csr_rows() { return *static_cast<const CsrRowsKernels*>(best("csr_rows", kAnyIsa).table); }

const BitmaskKernels& best_bitmask() { return *static_cast<const BitmaskKernels*>(best("bitmask", kAnyIsa).table); }

const BitmaskHalfKernels& best_bitmask_half() {
  return *static_cast<const BitmaskHalfKernels*>(best("bitmask_half", kAnyIsa).table);
}

const NmKernels& best_nm() { return *static_cast<const NmKernels*>(best("nm", kAnyIsa).table); }

const ProbeKernels& best_probe() { return *static_cast<const ProbeKernels*>(best("probe", kAnyIsa).table); }

const ConvKernels& best_conv() { return *static_cast<const ConvKernels*>(best("conv", kAnyIsa).table); }

const ConvKernels& best_conv_bf16() { return *static_cast<const ConvKernels*>(best("conv_bf16", kAnyIsa).table); }

const BlockHalfKernels& best_block_half(Isa most) {
  return *static_cast<const BlockHalfKernels*>(best("block_half", most).table);
}

const CsrPanelsKernels& best_csr_panels(Isa most) {
  return *static_cast<const CsrPanelsKernels*>(best("csr_panels", most).table);
}

const BlockCsrKernels& best_block_csr(Isa most) {
  return *static_cast<const BlockCsrKernels*>(best("block_csr", most).table);
}

const BlockGradKernels& best_block_grad(Isa most) {
  return *static_cast<const BlockGradKernels*>(best("block_grad", most).table);
}

const Int8BlockCsrKernels& best_int8_block_csr() {
  return *static_cast<const Int8BlockCsrKernels*>(best("int8_block_csr", kAnyIsa).table);
}

const Int8BitmaskKernels& best_int8_bitmask() {
  return *static_cast<const Int8BitmaskKernels*>(best("int8_bitmask", kAnyIsa).table);
}

std::string amx_refusal() {
#ifdef SPARSEKIT_WITHOUT_amx
  return "this build has no AMX kernels";
#else
  if (!cpu_runs(Isa::amx)) return "the processor or the operating system has no AMX";
  if (isa_limit() < Isa::amx) return "SPARSEKIT_ISA allows a lower instruction set only";
  return tiles_work() ? "" : "AMX gave another product than its emulation";
#endif
}

std::vector<std::pair<std::string, std::string>> built_kernels() {
  std::vector<std::pair<std::string, std::string>> built;
  for (const Line& line : kLines) built.emplace_back(line.stem, isa_name(line.isa));
  return built;
}

std::string isa_of(const std::string& stem) { return isa_name(best(stem, kAnyIsa).isa); }

}  // namespace sparsekit
