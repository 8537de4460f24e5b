// From kernels.def: the table of a stem for the best instruction set that is built, offered and allowed.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "core/cpu.h"
#include "kernels/activation.h"
#include "kernels/bitmask.h"
#include "kernels/bitmask_half.h"
#include "kernels/block_csr.h"
#include "kernels/block_grad.h"
#include "kernels/block_half.h"
#include "kernels/conv.h"
#include "kernels/csr.h"
#include "kernels/csr_panels.h"
#include "kernels/csr_rows.h"
#include "kernels/int8_bitmask.h"
#include "kernels/int8_block_csr.h"
#include "kernels/nm.h"
#include "kernels/probe.h"

namespace sparsekit {

// Throws where none is left, which cannot happen as long as each stem has a scalar line.
const ActivationKernels& best_activation();
const CsrRowsKernels& best_csr_rows();
const BitmaskKernels& best_bitmask();
const BitmaskHalfKernels& best_bitmask_half();
const NmKernels& best_nm();
const ProbeKernels& best_probe();
const ConvKernels& best_conv();
const ConvKernels& best_conv_bf16();
// `most` lowers the limit further, for blocks too short and tokens too few to fill wide vectors.
const BlockHalfKernels& best_block_half(Isa most);
const CsrPanelsKernels& best_csr_panels(Isa most);
const BlockCsrKernels& best_block_csr(Isa most);
const BlockGradKernels& best_block_grad(Isa most);
const Int8BlockCsrKernels& best_int8_block_csr();
const Int8BitmaskKernels& best_int8_bitmask();

// Why AMX is not used on this machine, or "".
std::string amx_refusal();

// (stem, instruction set) of every line that was built, in the order of preference.
std::vector<std::pair<std::string, std::string>> built_kernels();

// The instruction set that `stem` would use now.
std::string isa_of(const std::string& stem);

}  // namespace sparsekit
