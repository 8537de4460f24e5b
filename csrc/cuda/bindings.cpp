// Python sees a weight in panels as an object, built once, and where things lie in it, for tests. The caller keeps the
// tensors behind the pointers alive. The only file here that includes pybind11.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <tuple>

#include "nm.h"
#include "nm_places.h"

namespace py = pybind11;
using namespace sparsekit::cuda;

namespace {

// (x, batch, x_stride, bias or 0, y, tokens of a tile, splits, partial or 0, multiprocessors, stream); see nm.h.
template <class Run>
auto multiplied_by(Run run) {
  return [run](const NmWeight& self, std::uintptr_t x, int64_t batch, int64_t x_stride, std::uintptr_t bias,
               std::uintptr_t y, int tokens, int splits, std::uintptr_t partial, int multiprocessors,
               std::uintptr_t stream) {
    const NmProduct product = {reinterpret_cast<const void*>(x), batch, x_stride, reinterpret_cast<const void*>(bias),
                               reinterpret_cast<void*>(y)};
    run(self, product,
        NmLaunch{tokens, splits, reinterpret_cast<float*>(partial), multiprocessors, reinterpret_cast<void*>(stream)});
  };
}

template <class Find>
auto as_pair(Find find) {
  return [find](int thread, int i) {
    const Place place = find(thread, i);
    return std::make_tuple(place.row, place.token);
  };
}

void add_mma_places(py::module_ m) {
  m.attr("columns") = mma::kColumns;
  m.attr("steps") = mma::kSteps;
  m.attr("warps") = mma::kWarps;
  m.attr("panel_bytes") = mma::kPanelBytes;
  m.def("shared_bytes", &mma::shared_bytes);
  m.def("panel_at", &mma::panel_at);
  m.def("values_at", &mma::values_at);
  m.def("metadata_at", &mma::metadata_at);
  m.def("chunk_at", &mma::chunk_at);
  m.def("ldmatrix_at", &mma::ldmatrix_at);
  m.def("place_of", as_pair(&mma::place_of));
}

void add_wgmma_places(py::module_ m) {
  m.attr("columns") = wgmma::kColumns;
  m.attr("steps") = wgmma::kSteps;
  m.attr("consumers") = wgmma::kConsumers;
  m.attr("panel_bytes") = wgmma::kPanelBytes;
  m.attr("out_tokens") = wgmma::kOutTokens;
  m.attr("out_pitch") = wgmma::kOutPitch;
  m.def("stages", &wgmma::stages);
  m.def("stage_bytes", &wgmma::stage_bytes);
  m.def("shared_bytes", &wgmma::shared_bytes);
  m.def("panel_at", &wgmma::panel_at);
  m.def("values_at", &wgmma::values_at);
  m.def("metadata_at", &wgmma::metadata_at);
  m.def("weights_at", &wgmma::weights_at);
  m.def("tokens_at", &wgmma::tokens_at);
  m.def("stmatrix_at", &wgmma::stmatrix_at);
  m.def("first_sum", &wgmma::first_sum);
  m.def("place_of", as_pair(&wgmma::place_of));
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
  m.doc() = "CUDA kernels of sparsekit; see sparsekit.kernels.cuda.";
  m.attr("architectures") = std::string(SPARSEKIT_CUDA_ARCHS);
  m.attr("tile_rows") = kTileRows;

  py::class_<NmWeight> weight(m, "NmWeight");
  weight.def(py::init([](std::uintptr_t panels, int64_t rows, int64_t columns, bool bf16) {
    return new NmWeight{reinterpret_cast<const void*>(panels), rows, columns, bf16};
  }));
  weight.def("mma", multiplied_by(&nm_mma), py::call_guard<py::gil_scoped_release>());
#ifndef SPARSEKIT_WITHOUT_sm90a
  weight.def("wgmma", multiplied_by(&nm_wgmma), py::call_guard<py::gil_scoped_release>());
#endif

  m.def("tile_of", [](uint32_t index, uint32_t row_tiles, uint32_t token_tiles) {
    const Tile tile = tile_of(index, row_tiles, token_tiles);
    return std::make_tuple(tile.rows, tile.tokens);
  });
  m.def("first_block", &first_block);
  add_mma_places(m.def_submodule("mma", "Where things lie for mma.sp."));
  add_wgmma_places(m.def_submodule("wgmma", "Where things lie for wgmma.sp."));
}
