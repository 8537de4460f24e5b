// One convolution with an oracle of its own. `Number` is float, or uint16_t for bfloat16.
#pragma once

#include "native.h"

namespace native {

inline sparsekit::ConvShape conv_shape(Random& random, bool grouped) {
  const auto pair = [&](std::initializer_list<int64_t> of) {
    return std::pair<int64_t, int64_t>(random.one_of(of), random.one_of(of));
  };
  const int64_t groups = grouped ? random.one_of<int64_t>({1, 1, 1, 2, 3}) : 1;
  auto kernel = pair({1, 3, 2, 5});
  auto stride = pair({1, 1, 2, 3});
  if (random.chance(0.4)) kernel = {3, 3};
  if (random.chance(0.3)) kernel = {1, 1};
  if (random.chance(0.5)) stride = {stride.first, stride.first};
  const auto dilation = pair({1, 1, 1, 2}), before = pair({0, 1, 2}), after = pair({0, 1});
  return {groups * random.one_of<int64_t>({1, 2, 3, 5, 17}),
          groups,
          {kernel.first, kernel.second},
          {stride.first, stride.second},
          {dilation.first, dilation.second},
          {before.first, before.second},
          {after.first, after.second},
          random.one_of({sparsekit::Activation::none, sparsekit::Activation::relu})};
}

template <class Number>
struct Images {
  sparsekit::ConvShape shape;
  sparsekit::ConvSize size;
  int64_t out[2];
  Weight weight;
  int64_t row_stride, channel_stride, image_stride;
  Buffer<Number> x;
  Buffer<float> bias;

  static double value(float number) { return number; }
  static double value(uint16_t half) { return widened(half); }

  static int64_t reach(const sparsekit::ConvShape& s, int axis) { return s.dilation[axis] * (s.kernel[axis] - 1) + 1; }

  Images(Random& random, const sparsekit::ConvShape& of, int64_t outputs)
      : shape(of),
        size{random.one_of<int64_t>({1, 1, 2, 3}), random.one_of<int64_t>({1, 2, 5, 9, 16, 23}),
             random.one_of<int64_t>({1, 3, 7, 16, 17, 33})},
        weight(random, outputs * shape.groups, shape.channels / shape.groups * shape.taps()),
        row_stride(grown() + random.one_of({0, 0, 2})),
        channel_stride(row_stride * size.height + random.one_of({0, 5})),
        image_stride(channel_stride * shape.channels + random.one_of({0, 3})),
        x((size.batch - 1) * image_stride + (shape.channels - 1) * channel_stride + (size.height - 1) * row_stride +
          size.width),
        bias(random.chance(0.5) ? weight.rows : 0) {
    for (int64_t i = 0; i < bias.size(); ++i) bias[i] = random.number();
    for (int64_t i = 0; i < x.size(); ++i) {
      const float number = random.number();
      if constexpr (sizeof(Number) == sizeof(float))
        x[i] = number;
      else
        x[i] = halved(number);
    }
  }

  template <class Packed>
  void check(const Packed& packed) const {
    const Buffer<Number> y(size.batch * weight.rows * out[0] * out[1]);
    y.fill(sizeof(Number) == sizeof(float) ? static_cast<Number>(NAN) : static_cast<Number>(0x7fff));
    packed.multiply({x.data(), size, image_stride, channel_stride, row_stride, bias.data(), y.data()});
    int64_t at = 0;
    for (int64_t image = 0; image < size.batch; ++image)
      for (int64_t row = 0; row < weight.rows; ++row)
        for (int64_t i = 0; i < out[0]; ++i)
          for (int64_t j = 0; j < out[1]; ++j) judge_one(image, row, i, j, value(y[at++]));
  }

 private:
  // Makes the image at least as large as the kernel, and says how wide it then is.
  int64_t grown() {
    int64_t* sides[2] = {&size.height, &size.width};
    for (int axis = 0; axis < 2; ++axis) {
      const int64_t padding = shape.before[axis] + shape.after[axis];
      *sides[axis] = std::max(*sides[axis], std::max<int64_t>(1, reach(shape, axis) - padding));
      out[axis] = (*sides[axis] + padding - reach(shape, axis)) / shape.stride[axis] + 1;
    }
    return size.width;
  }

  void judge_one(int64_t image, int64_t row, int64_t i, int64_t j, double got) const {
    const int64_t own = shape.channels / shape.groups, first = row / (weight.rows / shape.groups) * own;
    double exact = bias.size() ? bias[row] : 0.0, scale = std::abs(exact);
    for (int64_t column = 0; column < weight.columns; ++column) {
      const int64_t channel = first + column / shape.taps(), tap = column % shape.taps();
      const int64_t h = i * shape.stride[0] + tap / shape.kernel[1] * shape.dilation[0] - shape.before[0];
      const int64_t w = j * shape.stride[1] + tap % shape.kernel[1] * shape.dilation[1] - shape.before[1];
      if (h < 0 || w < 0 || h >= size.height || w >= size.width) continue;
      const double term =
          weight.at(row, column) * value(x[image * image_stride + channel * channel_stride + h * row_stride + w]);
      exact += term;
      scale += std::abs(term);
    }
    if (shape.activation == sparsekit::Activation::relu) exact = std::max(exact, 0.0);
    judge(got, exact, scale, weight.columns, sizeof(Number) == sizeof(float) ? 0x1p-23 : 0x1p-8, "convolution");
  }
};

}  // namespace native
