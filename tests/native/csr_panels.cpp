#include "csr.h"
#include "halves.h"

using namespace native;
using sparsekit::CsrPanels;

FAMILY(csr_panels) {
  const Problem problem(random);
  const Csr weight(random, problem.weight);
  const CsrBuffers buffers(random, weight);
  problem.check(CsrPanels(buffers.parts));
  const HalfOperands halves(problem);
  check_half(problem, halves, CsrPanels(buffers.parts));
  buffers.damage(random);
  refuse_or_run([&] { problem.check(CsrPanels(buffers.parts)); });
}
