// Kernels on shapes, by name. A name says all, so that any shape can be asked for:
//
//   conv ROWSxKxN gG [bias] [gelu | gelu_tanh | relu] [residual]   K, N per group; in every compute
//   encoder_layer ROWSxCHANNELSxHIDDEN gG                        a whole layer (layer_case.h)
//   encode ROWSxK gG                                             what convs of less than fp32 read
//   layer_norm ROWSxN
//   transpose ROWSxCOLS
//   attention ROWSxKEYSxD [mask]                                  one head; fp32, and what the tier has beside it
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/table.h"

namespace sbk::bench {

// A kernel with its operands.
class Work {
 public:
  virtual ~Work() = default;
  virtual void run() = 0;
  // After run(): the largest error against float64, as a share of what the roundings of the dtype allow.
  virtual double error() = 0;

  double flops = 0;  // of one run: two for a multiply-add; 0 where a kernel's work is moving data
  double bytes = 0;  // operands and results, each once
};

// False where `name` is no case or the tier does not have this kernel in `compute`.
bool has_case(const KernelTable& table, Compute compute, const std::string& name);

// Its work with operands; null where has_case is false.
std::unique_ptr<Work> open_case(const KernelTable& table, Compute compute, const std::string& name);

// The shapes of SqueezeBERT and MiniLM at 128 tokens, and remainders on every side.
const std::vector<std::string>& case_names();

inline constexpr Compute kComputes[] = {Compute::float32, Compute::bfloat16, Compute::int8, Compute::float16};

// "float32", "bfloat16", "int8", "float16"; false for anything else.
bool parse_compute(const std::string& name, Compute* compute);

}  // namespace sbk::bench
