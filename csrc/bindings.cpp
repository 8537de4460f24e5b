// Python sees packed weights as objects: built once from checked pointers, then multiplied. The caller keeps the
// tensors behind the pointers alive. The only file that includes pybind11.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <type_traits>

#include "core/cpu.h"
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

template <class Weight>
Weight* csr(int64_t rows, int64_t columns, int64_t nnz, std::uintptr_t values, std::uintptr_t indices,
            bool wide_indices, std::uintptr_t offsets, bool wide_offsets) {
  return new Weight(CsrParts{rows, columns, nnz, pointer<float>(values), pointer<void>(indices), wide_indices,
                             pointer<void>(offsets), wide_offsets});
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
      .def("multiply", multiplied_by(&CsrRows::multiply), py::call_guard<py::gil_scoped_release>());

  py::class_<CsrPanels>(m, "CsrPanels")
      .def(py::init(&csr<CsrPanels>))
      .def("multiply", multiplied_by(&CsrPanels::multiply), py::call_guard<py::gil_scoped_release>());

  py::class_<Bitmask>(m, "Bitmask")
      .def(py::init([](int64_t rows, int64_t columns, int64_t nnz, std::uintptr_t values, std::uintptr_t bits,
                       std::uintptr_t offsets, bool wide_offsets) {
        return new Bitmask({rows, columns, nnz, pointer<float>(values), pointer<uint16_t>(bits), pointer<void>(offsets),
                            wide_offsets});
      }))
      .def("multiply", multiplied_by(&Bitmask::multiply), py::call_guard<py::gil_scoped_release>());

  py::class_<BlockPlaces>(m, "BlockPlaces")
      .def(py::init([](int64_t rows, int64_t columns, int64_t block_rows, int64_t block_columns, int64_t blocks,
                       std::uintptr_t indices, std::uintptr_t offsets, bool wide_offsets) {
        return new BlockPlaces{
            rows,        columns, block_rows, block_columns, blocks, pointer<int32_t>(indices), pointer<void>(offsets),
            wide_offsets};
      }));

  py::class_<BlockCsr>(m, "BlockCsr")
      .def(py::init([](const BlockPlaces& places, std::uintptr_t values) {
        return new BlockCsr(places, pointer<float>(values));
      }))
      .def("multiply", multiplied_by(&BlockCsr::multiply), py::call_guard<py::gil_scoped_release>());

  py::class_<BlockHalf>(m, "BlockHalf")
      .def(py::init([](const BlockPlaces& places, std::uintptr_t values, bool emulated) {
        return new BlockHalf(places, pointer<uint16_t>(values), emulated);
      }))
      .def("multiply", multiplied_by(&BlockHalf::multiply), py::call_guard<py::gil_scoped_release>());

  py::class_<Int8BlockCsr>(m, "Int8BlockCsr")
      .def(py::init([](const BlockPlaces& places, std::uintptr_t values, std::uintptr_t scales) {
        return new Int8BlockCsr(places, pointer<int8_t>(values), pointer<float>(scales));
      }))
      .def(py::init([](int64_t rows, int64_t columns, std::uintptr_t values, std::uintptr_t scales) {
        return new Int8BlockCsr(rows, columns, pointer<int8_t>(values), pointer<float>(scales));
      }))
      .def("multiply", multiplied_by(&Int8BlockCsr::multiply), py::call_guard<py::gil_scoped_release>());

  py::class_<Int8Bitmask>(m, "Int8Bitmask")
      .def(py::init([](int64_t rows, int64_t columns, int64_t nnz, std::uintptr_t values, std::uintptr_t bits,
                       std::uintptr_t offsets, bool wide_offsets, std::uintptr_t scales) {
        return new Int8Bitmask({rows, columns, nnz, pointer<int8_t>(values), pointer<uint16_t>(bits),
                                pointer<void>(offsets), wide_offsets, pointer<float>(scales)});
      }))
      .def("multiply", multiplied_by(&Int8Bitmask::multiply), py::call_guard<py::gil_scoped_release>());

  py::class_<ConvShape>(m, "ConvShape")
      .def(py::init([](int64_t channels, int64_t groups, std::array<int64_t, 2> kernel, std::array<int64_t, 2> stride,
                       std::array<int64_t, 2> dilation, std::array<int64_t, 4> padding, int activation) {
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
      .def(py::init([](int64_t rows, int64_t columns, int64_t nnz, std::uintptr_t values, std::uintptr_t indices,
                       bool wide_indices, std::uintptr_t offsets, bool wide_offsets, const ConvShape& shape) {
        return new ConvCsr({rows, columns, nnz, pointer<float>(values), pointer<void>(indices), wide_indices,
                            pointer<void>(offsets), wide_offsets},
                           shape);
      }))
      .def("multiply", &convolve<ConvCsr>, py::call_guard<py::gil_scoped_release>());

  py::class_<ConvBlocks>(m, "ConvBlocks")
      .def(py::init([](const BlockPlaces& places, std::uintptr_t values, bool bf16, const ConvShape& shape) {
        return new ConvBlocks(places, pointer<void>(values), bf16, shape);
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
