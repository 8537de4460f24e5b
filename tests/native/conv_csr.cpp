#include "csr.h"
#include "images.h"

using namespace native;
using sparsekit::ConvCsr;

FAMILY(conv_csr) {
  const Images<float> images(random, conv_shape(random, true), random.one_of<int64_t>({1, 2, 7, 33, 70}));
  const Csr weight(random, images.weight);
  const CsrBuffers buffers(random, weight);
  images.check(ConvCsr(buffers.parts, images.shape));
  buffers.damage(random);
  refuse_or_run([&] { images.check(ConvCsr(buffers.parts, images.shape)); });
}
