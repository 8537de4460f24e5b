// Python sees packed weights as objects: built once from addresses and their bytes, which are checked here against the
// sizes before they become pointers, then multiplied. The caller keeps the tensors behind the pointers alive. The only
// file that includes pybind11.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <type_traits>

#include "core/cpu.h"
#include "core/memory.h"
#include "kernels/bits.h"
#include "kernels/dispatch.h"
#include "kernels/probe.h"

namespace py = pybind11;
using namespace sparsekit;

namespace {

template <class T>
const T* pointer(std::uintptr_t address) {
  return reinterpret_cast<const T*>(address);
}

float* writable(std::uintptr_t address) { return reinterpret_cast<float*>(address); }

// (x, batch, x_stride, bias or 0, y, activation, residual or 0), pointers as addresses; see Product and HalfProduct.
template <class Weight, class Operands>
auto multiplied_by(void (Weight::*multiply)(const Operands&) const) {
  return [multiply](const Weight& self, std::uintptr_t x, int64_t batch, int64_t x_stride, std::uintptr_t bias,
                    std::uintptr_t y, int activation, std::uintptr_t residual) {
    Operands product;
    using Number = std::remove_pointer_t<decltype(product.y)>;
    product.x = pointer<Number>(x);
    product.batch = batch;
    product.x_stride = x_stride;
    product.bias = pointer<Number>(bias);
    product.y = reinterpret_cast<Number*>(y);
    product.activation = static_cast<Activation>(activation);
    product.residual = pointer<Number>(residual);
    (self.*multiply)(product);
  };
}

CsrParts csr_parts(int64_t rows, int64_t columns, int64_t nnz, const Memory& values, const Memory& columns_of,
                   bool wide_indices, const Memory& offsets_of, bool wide_offsets) {
  check_sizes("csr", {rows, columns});
  return {rows,
          columns,
          nnz,
          elements<float>("csr values", values, nnz),
          indices("csr column_indices", columns_of, nnz, wide_indices),
          wide_indices,
          offsets("csr row_offsets", offsets_of, rows, wide_offsets),
          wide_offsets};
}

template <class Weight>
Weight* csr(int64_t rows, int64_t columns, int64_t nnz, const Memory& values, const Memory& columns_of,
            bool wide_indices, const Memory& offsets_of, bool wide_offsets) {
  return new Weight(csr_parts(rows, columns, nnz, values, columns_of, wide_indices, offsets_of, wide_offsets));
}

// The values of the blocks that `places` counts.
template <class T>
const T* block_values(const BlockPlaces& places, const Memory& values) {
  const std::string what = "block_csr values";
  const int64_t size = product_of(what, places.block_rows, places.block_columns);
  return elements<T>(what, values, product_of(what, places.blocks, size));
}

// (x, size, strides of image, channel and row, bias or 0, y); see ConvOperands.
template <class Weight>
void convolve(const Weight& self, std::uintptr_t x, std::array<int64_t, 3> size, std::array<int64_t, 3> strides,
              std::uintptr_t bias, std::uintptr_t y) {
  self.multiply({pointer<void>(x),
                 {size[0], size[1], size[2]},
                 strides[0],
                 strides[1],
                 strides[2],
                 pointer<float>(bias),
                 reinterpret_cast<void*>(y)});
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Native kernels of sparsekit; see sparsekit.kernels.native.";
  m.def("cpu_features", &cpu_features);
  m.def("isa_of", &isa_of, "The instruction set that the kernels of a stem would use now.");
  m.def("amx_refusal", &amx_refusal, "Why AMX is not used on this machine, or nothing.");
  m.def("built_kernels", &built_kernels, "(stem, instruction set) of every kernel in this build.");
  m.def("peak_flops", &peak_flops, py::call_guard<py::gil_scoped_release>());
  m.def("read_bandwidth", &read_bandwidth, py::call_guard<py::gil_scoped_release>());

  py::class_<CsrRows>(m, "CsrRows")
      .def(py::init(&csr<CsrRows>))
      .def("multiply", multiplied_by<CsrRows, Product>(&CsrRows::multiply), py::call_guard<py::gil_scoped_release>())
      .def("multiply_halves", multiplied_by<CsrRows, HalfProduct>(&CsrRows::multiply),
           py::call_guard<py::gil_scoped_release>());

  py::class_<CsrPanels>(m, "CsrPanels")
      .def(py::init(&csr<CsrPanels>))
      .def("multiply", multiplied_by<CsrPanels, Product>(&CsrPanels::multiply),
           py::call_guard<py::gil_scoped_release>())
      .def("multiply_halves", multiplied_by<CsrPanels, HalfProduct>(&CsrPanels::multiply),
           py::call_guard<py::gil_scoped_release>());

  py::class_<Bitmask>(m, "Bitmask")
      .def(py::init([](int64_t rows, int64_t columns, int64_t nnz, const Memory& values, const Memory& bits,
                       const Memory& offsets_of, bool wide_offsets) {
        check_sizes("bitmask", {rows, columns});
        return new Bitmask({rows, columns, nnz, elements<float>("bitmask values", values, nnz),
                            elements<uint16_t>("bitmask bits", bits, rows * bits_words(columns)),
                            offsets("bitmask row_offsets", offsets_of, rows, wide_offsets), wide_offsets});
      }))
      .def("multiply", multiplied_by<Bitmask, Product>(&Bitmask::multiply), py::call_guard<py::gil_scoped_release>())
      .def("multiply_halves", multiplied_by<Bitmask, HalfProduct>(&Bitmask::multiply),
           py::call_guard<py::gil_scoped_release>());

  py::class_<BitmaskHalf>(m, "BitmaskHalf")
      .def(py::init([](int64_t rows, int64_t columns, int64_t nnz, const Memory& values, const Memory& bits,
                       const Memory& offsets_of, bool wide_offsets) {
        check_sizes("bitmask", {rows, columns});
        return new BitmaskHalf({rows, columns, nnz, elements<uint16_t>("bitmask values", values, nnz),
                                elements<uint16_t>("bitmask bits", bits, rows * bits_words(columns)),
                                offsets("bitmask row_offsets", offsets_of, rows, wide_offsets), wide_offsets});
      }))
      .def("multiply", multiplied_by(&BitmaskHalf::multiply), py::call_guard<py::gil_scoped_release>());

  py::class_<Nm>(m, "Nm")
      .def(py::init([](int64_t rows, int64_t columns, int64_t n, int64_t of, const Memory& values,
                       const Memory& positions, const Memory& tail) {
        check_sizes("nm", {rows, columns, n, of});
        check(1 <= n && n <= of, "nm: expected 1 <= n <= m, got " + std::to_string(n) + " of " + std::to_string(of));
        const int64_t kept = columns / of * n;
        return new Nm({rows, columns, n, of, elements<float>("nm values", values, product_of("nm values", rows, kept)),
                       elements<uint8_t>("nm positions", positions,
                                         product_of("nm positions", rows, nm_position_bytes(kept, of))),
                       elements<float>("nm tail", tail, product_of("nm tail", rows, columns % of))});
      }))
      .def("multiply", multiplied_by<Nm, Product>(&Nm::multiply), py::call_guard<py::gil_scoped_release>())
      .def("multiply_halves", multiplied_by<Nm, HalfProduct>(&Nm::multiply), py::call_guard<py::gil_scoped_release>());

  py::class_<BlockPlaces>(m, "BlockPlaces")
      .def(py::init([](int64_t rows, int64_t columns, int64_t block_rows, int64_t block_columns, int64_t blocks,
                       const Memory& columns_of, const Memory& offsets_of, bool wide_offsets) {
        check_sizes("block_csr", {rows, columns, block_rows, block_columns});
        check(block_rows > 0 && block_columns > 0, "block_csr: expected block sides of at least 1");
        const int64_t high = (rows + block_rows - 1) / block_rows;
        return new BlockPlaces{rows,
                               columns,
                               block_rows,
                               block_columns,
                               blocks,
                               elements<int32_t>("block_csr block_indices", columns_of, blocks),
                               offsets("block_csr block_offsets", offsets_of, high, wide_offsets),
                               wide_offsets};
      }));

  py::class_<BlockCsr>(m, "BlockCsr")
      .def(py::init([](const BlockPlaces& places, const Memory& values) {
        return new BlockCsr(places, block_values<float>(places, values));
      }))
      .def("multiply", multiplied_by(&BlockCsr::multiply), py::call_guard<py::gil_scoped_release>());

  py::class_<BlockHalf>(m, "BlockHalf")
      .def(py::init([](const BlockPlaces& places, const Memory& values, bool emulated) {
        return new BlockHalf(places, block_values<uint16_t>(places, values), emulated);
      }))
      .def("multiply", multiplied_by(&BlockHalf::multiply), py::call_guard<py::gil_scoped_release>());

  py::class_<Int8BlockCsr>(m, "Int8BlockCsr")
      .def(py::init([](const BlockPlaces& places, const Memory& values, const Memory& scales) {
        return new Int8BlockCsr(places, block_values<int8_t>(places, values),
                                elements<float>("int8 scales", scales, places.rows));
      }))
      .def(py::init([](int64_t rows, int64_t columns, const Memory& values, const Memory& scales) {
        check_sizes("int8_dense", {rows, columns});
        return new Int8BlockCsr(rows, columns, elements<int8_t>("int8_dense values", values, rows * columns),
                                elements<float>("int8 scales", scales, rows));
      }))
      .def("multiply", multiplied_by(&Int8BlockCsr::multiply), py::call_guard<py::gil_scoped_release>());

  py::class_<Int8Bitmask>(m, "Int8Bitmask")
      .def(py::init([](int64_t rows, int64_t columns, int64_t nnz, const Memory& values, const Memory& bits,
                       const Memory& offsets_of, bool wide_offsets, const Memory& scales) {
        check_sizes("int8_bitmask", {rows, columns});
        return new Int8Bitmask({rows, columns, nnz, elements<int8_t>("int8_bitmask values", values, nnz),
                                elements<uint16_t>("int8_bitmask bits", bits, rows * bits_words(columns)),
                                offsets("int8_bitmask row_offsets", offsets_of, rows, wide_offsets), wide_offsets,
                                elements<float>("int8 scales", scales, rows)});
      }))
      .def("multiply", multiplied_by(&Int8Bitmask::multiply), py::call_guard<py::gil_scoped_release>());

  py::class_<ConvShape>(m, "ConvShape")
      .def(py::init([](int64_t channels, int64_t groups, std::array<int64_t, 2> kernel, std::array<int64_t, 2> stride,
                       std::array<int64_t, 2> dilation, std::array<int64_t, 4> padding, int activation) {
        check_sizes("convolution", {channels, groups, kernel[0], kernel[1], stride[0], stride[1], dilation[0],
                                    dilation[1], padding[0], padding[1], padding[2], padding[3]});
        return new ConvShape{channels,
                             groups,
                             {kernel[0], kernel[1]},
                             {stride[0], stride[1]},
                             {dilation[0], dilation[1]},
                             {padding[0], padding[2]},
                             {padding[1], padding[3]},
                             static_cast<Activation>(activation)};
      }));

  py::class_<ConvCsr>(m, "ConvCsr")
      .def(py::init([](int64_t rows, int64_t columns, int64_t nnz, const Memory& values, const Memory& columns_of,
                       bool wide_indices, const Memory& offsets_of, bool wide_offsets, const ConvShape& shape) {
        return new ConvCsr(csr_parts(rows, columns, nnz, values, columns_of, wide_indices, offsets_of, wide_offsets),
                           shape);
      }))
      .def("multiply", &convolve<ConvCsr>, py::call_guard<py::gil_scoped_release>());

  py::class_<ConvBlocks>(m, "ConvBlocks")
      .def(py::init([](const BlockPlaces& places, const Memory& values, bool bf16, const ConvShape& shape) {
        if (bf16) return new ConvBlocks(places, block_values<uint16_t>(places, values), true, shape);
        return new ConvBlocks(places, block_values<float>(places, values), false, shape);
      }))
      .def("multiply", &convolve<ConvBlocks>, py::call_guard<py::gil_scoped_release>());

  py::class_<BlockGrad>(m, "BlockGrad")
      .def(py::init<const BlockPlaces&>())
      .def(
          "spread",
          [](const BlockGrad& self, std::uintptr_t grad, int64_t grad_stride, int64_t batch, std::uintptr_t values,
             std::uintptr_t x) {
            self.spread({pointer<float>(grad), grad_stride, batch, pointer<float>(values), writable(x)});
          },
          py::call_guard<py::gil_scoped_release>())
      .def(
          "sample",
          [](const BlockGrad& self, std::uintptr_t grad, int64_t grad_stride, std::uintptr_t x, int64_t x_stride,
             int64_t batch, std::uintptr_t values) {
            self.sample({pointer<float>(grad), grad_stride, pointer<float>(x), x_stride, batch, writable(values)});
          },
          py::call_guard<py::gil_scoped_release>());
}
