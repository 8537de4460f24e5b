#include "kernels/csr_panels.h"

#include <algorithm>
#include <utility>

#include "core/scratch.h"
#include "core/threads.h"
#include "kernels/dispatch.h"
#include "kernels/offsets.h"
#include "kernels/widened.h"

namespace sparsekit {

namespace {

// Work of a row beside its entries, in entries: loop set-up and the store of its sums.
constexpr int64_t kRowCost = 4;
// Rows whose sums stay in the caches while the tiles of a panel pass; even, so that no pair is cut.
constexpr int64_t kChunkRows = 64;
// Lets the last rows of a chunk be transposed as a whole square.
constexpr int64_t kSpareRows = 16;
// Activations of a panel in one block: these stay in the second-level cache while chunks of the weight pass.
constexpr int64_t kBlockBytes = 512 << 10;
// From this share of entries on whose column the row beside has too, loading it once for both pays.
constexpr double kWorthPairing = 0.125;

// So many columns, in steps, that a row has about `entries` in them, but within [least, most].
int64_t columns_with(double entries, double density, int64_t least, int64_t most) {
  constexpr int64_t kStep = 32;
  const double columns = density > 0 ? entries / density : static_cast<double>(most);
  if (columns >= static_cast<double>(most)) return most;
  return std::max(least, (static_cast<int64_t>(columns) + kStep - 1) / kStep * kStep);
}

// The share of entries whose column the other row of their pair has too.
template <class Index>
double paired_share(const CsrParts& parts, const std::vector<int64_t>& offsets) {
  const Index* columns = static_cast<const Index*>(parts.indices);
  int64_t shared = 0;
  for (int64_t n = 0; n + 1 < parts.rows; n += 2) {
    for (int64_t p = offsets[n], q = offsets[n + 1]; p < offsets[n + 1] && q < offsets[n + 2];) {
      const Index first = columns[p], second = columns[q];
      shared += first == second;
      p += first <= second;
      q += second <= first;
    }
  }
  return 2.0 * static_cast<double>(shared) / static_cast<double>(std::max<int64_t>(parts.nnz, 1));
}

// What is read and written for a panel in fp32.
struct Floats {
  const Product& product;
  const ActivationKernels& activations;
  int64_t rows;

  const float* bias() const { return product.bias; }
  void pack(const CsrPanelsKernels& kernels, int64_t column, int64_t columns, const CsrPanel& panel, float* to) const {
    kernels.pack(product, column, columns, panel, to);
  }
  void store(const CsrPanelsKernels& kernels, const CsrChunk& chunk, const CsrPanel& panel, const float* sums) const {
    kernels.store(chunk, panel, product, rows, sums);
    product.finish(activations, rows, panel.first, panel.first + panel.tokens, chunk.first_row,
                   chunk.first_row + chunk.rows);
  }
};

// The same in bfloat16: as much of x is widened at a time as a panel holds, and the sums of a chunk are rounded while
// the first-level cache holds them.
struct Halves {
  const HalfProduct& product;
  const ActivationKernels& activations;
  int64_t rows;

  const float* bias() const { return nullptr; }  // it is added when the sums are rounded
  void pack(const CsrPanelsKernels& kernels, int64_t column, int64_t columns, const CsrPanel& panel, float* to) const {
    static thread_local Scratch inputs;
    float* x = inputs.floats(static_cast<std::size_t>(panel.tokens * columns));
    widen(product, panel.first, panel.tokens, column, columns, x);
    Product wide;
    wide.x = x;
    wide.x_stride = columns;
    kernels.pack(wide, 0, columns, {nullptr, panel.vectors, 0, panel.tokens}, to);
  }
  void store(const CsrPanelsKernels& kernels, CsrChunk chunk, const CsrPanel& panel, const float* sums) const {
    static thread_local Scratch scratch;
    Product own;
    own.y = scratch.floats(static_cast<std::size_t>(panel.tokens * chunk.rows));
    const int64_t first = std::exchange(chunk.first_row, 0);
    kernels.store(chunk, {nullptr, panel.vectors, 0, panel.tokens}, own, chunk.rows, sums);
    for (int64_t m = 0; m < panel.tokens; ++m)
      product.finish(activations, rows, panel.first + m, first, first + chunk.rows, own.y + m * chunk.rows);
  }
};

}  // namespace

// Walks the rows of a weight tile by tile.
template <class Index>
class CsrLayout::Filler {
 public:
  Filler(CsrLayout& layout, const CsrParts& parts, const std::vector<int64_t>& offsets, bool pair)
      : layout_(layout),
        values_(parts.values),
        columns_(static_cast<const Index*>(parts.indices)),
        offsets_(offsets),
        next_(offsets.begin(), offsets.end() - 1),
        pair_(pair) {}

  // Appends what row n and, where it is below `rows`, row n + 1 hold in the tile that starts at column `origin`.
  void append(int64_t n, int64_t rows, int64_t origin) {
    const Range first = take(n, origin), second = n + 1 < rows ? take(n + 1, origin) : Range{0, 0};
    shared_.clear();
    CsrRuns runs{};
    runs.entries[0] = append_own(first, second, origin, true);
    runs.entries[1] = append_own(second, first, origin, false);
    for (const Range& places : shared_) {
      layout_.values_.push_back(values_[places.begin]);
      layout_.values_.push_back(values_[places.end]);
      layout_.columns_.push_back(static_cast<uint16_t>(columns_[places.begin] - origin));
    }
    runs.shared = static_cast<uint16_t>(shared_.size());
    layout_.runs_.push_back(runs);
  }

 private:
  struct Range {
    int64_t begin, end;
  };

  // The next entries of row n, those in the tile.
  Range take(int64_t n, int64_t origin) {
    const int64_t begin = next_[n], end = origin + layout_.tile_columns_;
    while (next_[n] < offsets_[n + 1] && static_cast<int64_t>(columns_[next_[n]]) < end) ++next_[n];
    return {begin, next_[n]};
  }

  // Appends the entries of `row` whose column `other` does not have, and keeps the places of the rest if told so.
  uint16_t append_own(const Range& row, const Range& other, int64_t origin, bool keep) {
    const std::size_t before = layout_.columns_.size();
    int64_t q = pair_ ? other.begin : other.end;
    for (int64_t p = row.begin; p < row.end; ++p) {
      while (q < other.end && columns_[q] < columns_[p]) ++q;
      if (q < other.end && columns_[q] == columns_[p]) {
        if (keep) shared_.push_back({p, q});
        continue;
      }
      layout_.values_.push_back(values_[p]);
      layout_.columns_.push_back(static_cast<uint16_t>(columns_[p] - origin));
    }
    return static_cast<uint16_t>(layout_.columns_.size() - before);
  }

  CsrLayout& layout_;
  const float* values_;
  const Index* columns_;
  const std::vector<int64_t>& offsets_;
  std::vector<int64_t> next_;
  bool pair_;
  std::vector<Range> shared_;
};

CsrLayout::CsrLayout(const CsrParts& parts, const std::vector<int64_t>& offsets, const CsrTiles& tiles)
    : most_vectors(tiles.most_vectors),
      block_columns(std::max<int64_t>(1, tiles.block_columns / tiles.columns) * tiles.columns),
      blocks(std::max<int64_t>(1, (parts.columns + block_columns - 1) / block_columns)),
      size_{parts.rows, parts.columns},
      tile_columns_(tiles.columns) {
  values_.reserve(static_cast<std::size_t>(parts.nnz));
  columns_.reserve(static_cast<std::size_t>(parts.nnz));
  for (int64_t first = 0; first < parts.rows; first += kChunkRows) chunk_offsets.push_back(offsets[first]);
  chunk_offsets.push_back(parts.nnz);
  if (parts.wide_indices)
    fill(Filler<int32_t>(*this, parts, offsets, tiles.pair));
  else
    fill(Filler<uint16_t>(*this, parts, offsets, tiles.pair));
}

template <class Rows>
void CsrLayout::fill(Rows rows) {
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t end = block * block_columns + width(block);
    for (int64_t first = 0; first < size_[0]; first += kChunkRows) {
      places_.push_back({values_.size(), columns_.size(), runs_.size()});
      const int64_t last = std::min(size_[0], first + kChunkRows);
      for (int64_t origin = block * block_columns; origin < end; origin += tile_columns_)
        for (int64_t n = first; n < last; n += 2) rows.append(n, last, origin);
    }
  }
}

int64_t CsrLayout::width(int64_t block) const {
  return std::clamp<int64_t>(size_[1] - block * block_columns, 1, block_columns);
}

CsrChunk CsrLayout::chunk(int64_t block, int64_t index) const {
  const int64_t first = index * kChunkRows;
  const std::size_t chunks = chunk_offsets.size() - 1;
  const Place& place = places_[static_cast<std::size_t>(block) * chunks + static_cast<std::size_t>(index)];
  return {first,
          std::min(kChunkRows, size_[0] - first),
          (width(block) + tile_columns_ - 1) / tile_columns_,
          tile_columns_,
          values_.data() + place.value,
          columns_.data() + place.column,
          runs_.data() + place.runs};
}

CsrPanels::CsrPanels(const CsrParts& parts)
    : parts_(parts),
      offsets_(checked_csr(parts)),
      kernels_(&best_csr_panels(Isa::avx512)),
      short_kernels_(&best_csr_panels(Isa::avx2)),
      activations_(&best_activation()) {
  const double cells = static_cast<double>(parts.rows) * static_cast<double>(parts.columns);
  const double density = cells > 0 ? static_cast<double>(parts.nnz) / cells : 1.0;
  const double share =
      parts.wide_indices ? paired_share<int32_t>(parts, offsets_) : paired_share<uint16_t>(parts, offsets_);
  const bool pair = share >= kWorthPairing;
  const auto tiles = [&](int64_t columns, int vectors) {
    const int64_t line = vectors * kernels_->lanes * static_cast<int64_t>(sizeof(float));
    return CsrTiles{columns, kBlockBytes / line, vectors, pair};
  };
  const int scale = 16 / kernels_->lanes;
  // A run of entries has a cost of its own: the fewer vectors there are to an entry, the longer it has to be, and the
  // more of a tile lies in the second-level cache.
  made_[0].tiles = tiles(columns_with(192, density, 512, 2048), 1);
  made_[1].tiles = tiles(columns_with(48, density, 256, 1024), 2);
  made_[2].tiles = tiles(columns_with(28 * scale, density, 64 * scale, 192 * scale), kMostCsrVectors);
}

const CsrLayout& CsrPanels::layout_for(int64_t vectors) const {
  const Made& made = made_[std::clamp<int64_t>(vectors, 1, 3) - 1];
  std::call_once(made.once, [&] { made.layout = std::make_unique<CsrLayout>(parts_, offsets_, made.tiles); });
  return *made.layout;
}

template <class Operands>
void CsrPanels::multiply_panels(const Operands& operands, int64_t batch) const {
  const CsrPanelsKernels& kernels = batch <= short_kernels_->lanes ? *short_kernels_ : *kernels_;
  const int64_t lanes = kernels.lanes;
  const int64_t vectors = (batch + lanes - 1) / lanes;
  const CsrLayout& layout = layout_for(vectors);
  const int64_t panels = (vectors + layout.most_vectors - 1) / layout.most_vectors;
  const int64_t chunks = static_cast<int64_t>(layout.chunk_offsets.size()) - 1;
  const int64_t work = (parts_.nnz + kRowCost * parts_.rows) * batch;
  parallel(work, panels * chunks, [&](int part, int parts) {
    share_panels(layout.chunk_offsets, kRowCost * kChunkRows, 1, panels, part, parts,
                 [&](int64_t p, int64_t begin, int64_t end) {
                   // Panels of as equal width as can be.
                   const int64_t from = vectors * p / panels, to = vectors * (p + 1) / panels;
                   const int64_t first = from * lanes, last = std::min(to * lanes, batch);
                   const CsrPanel panel = {nullptr, static_cast<int>(to - from), first, last - first};
                   multiply_panel(kernels, layout, operands, panel, begin, end);
                 });
  });
}

template <class Operands>
void CsrPanels::multiply_panel(const CsrPanelsKernels& kernels, const CsrLayout& layout, const Operands& operands,
                               CsrPanel panel, int64_t begin, int64_t end) const {
  static thread_local Scratch panel_scratch, sum_scratch;
  const int64_t width = panel.vectors * kernels.lanes;
  float* x = panel_scratch.floats(static_cast<std::size_t>(layout.block_columns * width));
  const int64_t kept = layout.blocks > 1 ? end - begin : 1;  // chunks whose sums wait for the next block
  float* sums = sum_scratch.floats(static_cast<std::size_t>((kept * kChunkRows + kSpareRows) * width));
  panel.x = x;
  for (int64_t block = 0; block < layout.blocks; ++block) {
    const int64_t column = block * layout.block_columns;
    operands.pack(kernels, column, std::min(layout.block_columns, parts_.columns - column), panel, x);
    for (int64_t c = begin; c < end; ++c) {
      const CsrChunk chunk = layout.chunk(block, c);
      float* own = sums + (c - begin) % kept * kChunkRows * width;
      kernels.multiply(chunk, panel, operands.bias(), block == 0, own);
      if (block + 1 == layout.blocks) operands.store(kernels, chunk, panel, own);
    }
  }
}

void CsrPanels::multiply(const Product& product) const {
  multiply_panels(Floats{product, *activations_, parts_.rows}, product.batch);
}

void CsrPanels::multiply(const HalfProduct& product) const {
  multiply_panels(Halves{product, *activations_, parts_.rows}, product.batch);
}

}  // namespace sparsekit
