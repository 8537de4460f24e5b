// Takes the place of csrc/cuda/check.h: there is no CUDA runtime to ask.
#pragma once

#include <stdexcept>
#include <string>
