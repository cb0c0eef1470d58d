// sbk-bench: a model to time where none is given, and how much work a model is.
#pragma once
#include <cstdint>
#include <string>

#include "tools/command.h"

namespace sbk::tools {

// Writes config.json and model.safetensors of a SqueezeBERT of the published size (12 layers, 768 channels, 12 heads,
// 3072 intermediate, groups 4 4 4 1 4 4) with random bfloat16 weights and a vocabulary of 1024 into a new folder, about
// 53 MB, which the destructor removes. In $TMPDIR, or /data/local/tmp or /tmp.
class SyntheticModel {
 public:
  static constexpr int32_t max_length = 512;

  SyntheticModel();
  ~SyntheticModel();
  SyntheticModel(const SyntheticModel&) = delete;
  SyntheticModel& operator=(const SyntheticModel&) = delete;

  const std::string& folder() const { return folder_; }

 private:
  void write() const;
  void remove() const;
  std::string folder_;
};

// Floating-point operations of the encoder for `batch` sequences of `length` tokens, two for each multiply-add:
//   layers * batch * length * (2 * weights of the six convolutions of a layer + 4 * length * hidden)
// where a convolution with g groups has in * out / g weights. Softmax, LayerNorm, activation, bias and residual count
// nothing, as in the peak.
double encoder_flops(const sbk_model* model, int64_t batch, int64_t length);

// y = conv(x), one of a layer of SqueezeBERT.
struct ConvCase {
  const char* name;
  int32_t in, out, groups;
  sbk_activation activation;

  double flops(int64_t tokens) const { return 2.0 * static_cast<double>(tokens) * in * out / groups; }
};
inline constexpr ConvCase kConvCases[] = {{"query, key, value", 768, 768, 4, SBK_ACTIVATION_NONE},
                                          {"post attention", 768, 768, 1, SBK_ACTIVATION_NONE},
                                          {"intermediate + gelu", 768, 3072, 4, SBK_ACTIVATION_GELU},
                                          {"output", 3072, 768, 4, SBK_ACTIVATION_NONE}};

// A case with its operands.
class ConvWork {
 public:
  ConvWork(const ConvCase& work, sbk_dtype dtype, int64_t tokens);
  void run(sbk_context* context);
  // The largest error of some elements of the last result, as a share of what `dtype` allows: right up to 1.
  double error() const;

 private:
  const ConvCase& case_;
  sbk_dtype dtype_;
  int64_t tokens_;
  std::vector<float> weight_, bias_, x_, y_;
  WeightHandle packed_;
};

}  // namespace sbk::tools
