#include "csr.h"

using namespace native;
using sparsekit::CsrPanels;
using sparsekit::CsrRows;

FAMILY(csr) {
  const Problem problem(random);
  const Csr weight(random, problem.weight);
  const CsrBuffers buffers(random, weight);
  problem.check(CsrRows(buffers.parts));
  problem.check(CsrPanels(buffers.parts));
  buffers.damage(random);
  refuse_or_run([&] { problem.check(CsrRows(buffers.parts)); });
  refuse_or_run([&] { problem.check(CsrPanels(buffers.parts)); });
}
