#include "csr.h"
#include "halves.h"

using namespace native;
using sparsekit::CsrRows;

FAMILY(csr_rows) {
  const Problem problem(random, 9);
  const Csr weight(random, problem.weight);
  const CsrBuffers buffers(random, weight);
  problem.check(CsrRows(buffers.parts));
  const HalfOperands halves(problem);
  check_half(problem, halves, CsrRows(buffers.parts));
  buffers.damage(random);
  refuse_or_run([&] { problem.check(CsrRows(buffers.parts)); });
}
