// A dense weight as compressed sparse rows, in buffers that can be damaged.
#pragma once

#include "native.h"

namespace native {

struct Csr {
  std::vector<float> kept;
  std::vector<int64_t> columns, first = {0};
  Weight dense;
  bool wide;

  Csr(Random& random, const Weight& weight) : dense(weight), wide(random.chance(0.3)) {
    for (int64_t n = 0; n < weight.rows; ++n) {
      for (int64_t k = 0; k < weight.columns; ++k)
        if (weight.at(n, k) != 0.0f) {
          kept.push_back(weight.at(n, k));
          columns.push_back(k);
        }
      first.push_back(static_cast<int64_t>(kept.size()));
    }
  }
};

// The same as the kernels take it.
struct CsrBuffers {
  Buffer<float> values;
  Buffer<uint16_t> narrow_ones;
  Buffer<int32_t> wide_ones;
  Offsets offsets;
  sparsekit::CsrParts parts;

  CsrBuffers(Random& random, const Csr& csr)
      : values(csr.kept),
        narrow_ones(csr.wide ? 0 : static_cast<int64_t>(csr.columns.size())),
        wide_ones(csr.wide ? static_cast<int64_t>(csr.columns.size()) : 0),
        offsets(random, csr.first) {
    for (int64_t i = 0; i < narrow_ones.size(); ++i) narrow_ones[i] = static_cast<uint16_t>(csr.columns[i]);
    for (int64_t i = 0; i < wide_ones.size(); ++i) wide_ones[i] = static_cast<int32_t>(csr.columns[i]);
    const void* indices = csr.wide ? static_cast<const void*>(wide_ones.data()) : narrow_ones.data();
    parts = {csr.dense.rows, csr.dense.columns, values.size(),  values.data(),
             indices,        csr.wide,          offsets.data(), offsets.wide};
  }

  void damage(Random& random) const {
    if (values.size() == 0 || random.chance(0.5)) return offsets.damage(random);
    const int64_t at = random.chance(0.5) ? values.size() - 1 : random.below(values.size());
    const int64_t value = random.one_of<int64_t>({0, 1, 7, 65535, parts.columns, parts.columns});
    if (parts.wide_indices)
      wide_ones[at] = random.chance(0.3) ? -1 : static_cast<int32_t>(value);
    else
      narrow_ones[at] = static_cast<uint16_t>(value);
  }
};

}  // namespace native
