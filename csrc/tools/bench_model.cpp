#include "tools/bench_model.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "capi/capi.h"

namespace sbk::tools {
namespace {

constexpr int64_t kVocabulary = 1024, kHidden = 768, kIntermediate = 3072, kLayers = 12,
                  kPositions = SyntheticModel::max_length;

struct Random {
  uint64_t state = 0x9e3779b97f4a7c15;
  // From -1 to 1.
  float next() {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return static_cast<float>(static_cast<int64_t>(state >> 40) - (1 << 23)) * 0x1p-23f;
  }
  void fill(std::vector<float>* values, float size) {
    for (float& value : *values) value = size * next();
  }
};

// Random from -scale to scale around `middle`.
struct TensorSpec {
  std::string name, shape;
  int64_t values;
  float middle, scale;
};

std::vector<TensorSpec> tensors() {
  std::vector<TensorSpec> all;
  const auto weight = [&](const std::string& name, int64_t rows, int64_t columns, const char* more) {
    std::string shape("[");
    shape.append(std::to_string(rows)).append(",").append(std::to_string(columns)).append(more).append("]");
    all.push_back(
        {name + ".weight", std::move(shape), rows * columns, 0.0f, 0.035f});  // about BERT's initial deviation of 0.02
  };
  const auto vector = [&](const std::string& name, int64_t n, float middle) {
    all.push_back({name, std::string("[").append(std::to_string(n)).append("]"), n, middle, 0.02f});
  };
  const auto norm = [&](const std::string& name) {
    vector(name + ".weight", kHidden, 1.0f), vector(name + ".bias", kHidden, 0.0f);
  };
  const auto conv = [&](const std::string& name, int64_t in, int64_t out, int64_t groups) {
    weight(name, out, in / groups, ",1"), vector(name + ".bias", out, 0.0f);
  };
  weight("embeddings.word_embeddings", kVocabulary, kHidden, "");
  weight("embeddings.position_embeddings", kPositions, kHidden, "");
  weight("embeddings.token_type_embeddings", 2, kHidden, "");
  norm("embeddings.LayerNorm");
  for (int64_t i = 0; i < kLayers; i++) {
    const std::string layer = "encoder.layers." + std::to_string(i) + ".";
    for (const char* part : {"query", "key", "value"}) conv(layer + "attention." + part, kHidden, kHidden, 4);
    conv(layer + "post_attention.conv1d", kHidden, kHidden, 1);
    norm(layer + "post_attention.layernorm");
    conv(layer + "intermediate.conv1d", kHidden, kIntermediate, 4);
    conv(layer + "output.conv1d", kIntermediate, kHidden, 4);
    norm(layer + "output.layernorm");
  }
  return all;
}

constexpr char kConfig[] =
    "{\"model_type\": \"squeezebert\", \"architectures\": [\"SqueezeBertModel\"], \"vocab_size\": 1024,\n"
    " \"hidden_size\": 768, \"embedding_size\": 768, \"num_hidden_layers\": 12, \"num_attention_heads\": 12,\n"
    " \"intermediate_size\": 3072, \"max_position_embeddings\": 512, \"type_vocab_size\": 2,\n"
    " \"q_groups\": 4, \"k_groups\": 4, \"v_groups\": 4, \"post_attention_groups\": 1,\n"
    " \"intermediate_groups\": 4, \"output_groups\": 4}\n";

// A file that complains when it is closed.
class Output {
 public:
  explicit Output(const std::string& path) : path_(path), file_(std::fopen(path.c_str(), "we")) {
    if (file_ == nullptr) fail();
  }
  ~Output() {
    if (file_ != nullptr) std::fclose(file_);
  }
  void write(const void* data, size_t bytes) {
    if (std::fwrite(data, 1, bytes, file_) != bytes) fail();
  }
  void close() {
    const bool good = std::fclose(file_) == 0;
    file_ = nullptr;
    if (!good) fail();
  }

 private:
  [[noreturn]] void fail() const {
    throw std::runtime_error("cannot write '" + path_ + "': " + std::strerror(errno) +
                             " (53 MB are needed; TMPDIR chooses the folder)");
  }
  std::string path_;
  std::FILE* file_;
};

std::string temporary_folder() {
  const char* chosen = std::getenv("TMPDIR");
  std::vector<std::string> candidates{"/data/local/tmp", "/tmp", "."};
  if (chosen != nullptr && *chosen != '\0') candidates.insert(candidates.begin(), chosen);
  for (const std::string& folder : candidates) {
    if (access(folder.c_str(), W_OK | X_OK) == 0) return folder;
  }
  throw std::runtime_error("no folder to write the test model to: set TMPDIR");
}

}  // namespace

SyntheticModel::SyntheticModel() {
  std::string folder = temporary_folder() + "/sbk-bench-XXXXXX";
  if (mkdtemp(folder.data()) == nullptr) {
    throw std::runtime_error("cannot make a folder '" + folder + "': " + std::strerror(errno));
  }
  folder_ = folder;
  try {
    write();
  } catch (...) {
    remove();
    throw;
  }
}

SyntheticModel::~SyntheticModel() { remove(); }

void SyntheticModel::remove() const {
  for (const char* name : {"/config.json", "/model.safetensors"}) unlink((folder_ + name).c_str());
  rmdir(folder_.c_str());
}

void SyntheticModel::write() const {
  Output config(folder_ + "/config.json");
  config.write(kConfig, sizeof kConfig - 1);
  config.close();

  const std::vector<TensorSpec> all = tensors();
  std::string header = "{";
  int64_t offset = 0;
  for (const TensorSpec& t : all) {
    header += (offset > 0 ? ",\"" : "\"") + t.name + "\":{\"dtype\":\"BF16\",\"shape\":" + t.shape +
              ",\"data_offsets\":[" + std::to_string(offset) + "," + std::to_string(offset + 2 * t.values) + "]}";
    offset += 2 * t.values;
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const auto header_bytes = static_cast<uint64_t>(header.size());
  Output file(folder_ + "/model.safetensors");
  file.write(&header_bytes, sizeof header_bytes);
  file.write(header.data(), header.size());
  Random random;
  std::vector<uint16_t> values;
  for (const TensorSpec& t : all) {
    values.resize(static_cast<size_t>(t.values));
    for (uint16_t& value : values) {
      const float x = t.middle + t.scale * random.next();
      uint32_t bits;
      std::memcpy(&bits, &x, sizeof bits);
      value = static_cast<uint16_t>(bits >> 16);
    }
    file.write(values.data(), values.size() * sizeof values[0]);
  }
  file.close();
}

double encoder_flops(const sbk_model* handle, int64_t batch, int64_t length) {
  // The C interface does not tell the groups of a model.
  const ModelConfig& c = handle->model->config;
  const int64_t square = c.hidden_size * c.hidden_size, wide = c.hidden_size * c.intermediate_size;
  const int64_t weights = square / c.q_groups + square / c.k_groups + square / c.v_groups + square / c.post_groups +
                          wide / c.intermediate_groups + wide / c.output_groups;
  return static_cast<double>(c.num_layers * batch * length) *
         static_cast<double>(2 * weights + 4 * length * c.hidden_size);
}

ConvWork::ConvWork(const ConvCase& work, sbk_dtype dtype, int64_t tokens)
    : case_(work),
      dtype_(dtype),
      tokens_(tokens),
      weight_(static_cast<size_t>(work.out) * static_cast<size_t>(work.in / work.groups)),
      bias_(static_cast<size_t>(work.out)),
      x_(static_cast<size_t>(tokens * work.in)),
      y_(static_cast<size_t>(tokens * work.out)) {
  Random random;
  random.fill(&weight_, 0.05f), random.fill(&bias_, 0.5f), random.fill(&x_, 2.0f);
  sbk_weight* packed = nullptr;
  check(sbk_weight_create(weight_.data(), work.out, work.in, work.groups, 0, dtype, &packed));
  packed_.reset(packed);
}

void ConvWork::run(sbk_context* context) {
  const sbk_conv conv{packed_.get(), bias_.data()};
  check(sbk_grouped_pointwise_conv(context, &conv, case_.activation, x_.data(), tokens_, y_.data()));
}

double ConvWork::error() const {
  constexpr double kUnit = 0x1p-24, kHalfUnit = 0x1p-11, kBrainUnit = 0x1p-8, kLongestChunk = 192;
  const int64_t k = case_.in / case_.groups, n = case_.out / case_.groups;
  double worst = 0;
  for (int64_t i = 0; i < 256; i++) {
    const int64_t row = i * 37 % tokens_, column = i * 131 % case_.out;
    const float* x = x_.data() + row * case_.in + column / n * k;
    const float* w = weight_.data() + column * k;
    double sum = double{bias_[static_cast<size_t>(column)]}, size = std::fabs(sum), x_sum = 0, w_sum = 0;
    double x_max = 0, w_max = 0;
    for (int64_t j = 0; j < k; j++) {
      const double xj = double{x[j]}, wj = double{w[j]};
      sum += xj * wj, size += std::fabs(xj * wj), x_sum += std::fabs(xj), w_sum += std::fabs(wj);
      x_max = std::max(x_max, std::fabs(xj)), w_max = std::max(w_max, std::fabs(wj));
    }
    double allowed = static_cast<double>(k + 8) * kUnit * size + 16 * kUnit;
    if (dtype_ == SBK_BFLOAT16) allowed += 2.02 * kBrainUnit * size;
    if (dtype_ == SBK_FLOAT16) allowed += (2.02 + 4 * std::sqrt(kLongestChunk)) * kHalfUnit * size;
    // Half a step of each factor times the other one.
    if (dtype_ == SBK_INT8) {
      const double x_half = x_max / 254, w_half = w_max / 254;
      allowed += w_half * x_sum + x_half * w_sum + static_cast<double>(k) * x_half * w_half;
    }
    if (case_.activation == SBK_ACTIVATION_GELU) {
      sum *= 0.5 * std::erfc(-sum * 0.70710678118654752440);
      allowed *= 1.13;  // its steepest slope
    }
    const double error = std::fabs(double{y_[static_cast<size_t>(row * case_.out + column)]} - sum) / allowed;
    if (!(error <= worst)) worst = error;  // a NaN stays
  }
  return worst;
}

}  // namespace sbk::tools
