// sbk-bench: what this machine can do, and what the kernels make of it. One static program, for phones and boards.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "runtime/file_writer.h"
#include "tools/bench_machine.h"
#include "tools/bench_measure.h"
#include "tools/bench_model.h"

namespace {

using namespace sbk::tools;
using sbk::FileWriter;

constexpr const char* kUsage =
    "usage: sbk-bench [options] [MODEL.sbk]\n"
    "\n"
    "Tells the CPUs and their features, measures the peak of their multiply-add instructions, and times kernels and a\n"
    "whole model against it: MODEL.sbk, or a SqueezeBERT of the published size with random weights.\n"
    "\n"
    "  --json FILE     write everything to FILE too\n"
    "  --threads LIST  default: 1 and as many as there are fast cores\n"
    "  --cpus LIST     the CPUs to use, as in 4-7; default: the fast cores\n"
    "  --dtypes LIST   of the synthetic model and of kernels; default: float32,float16,int8 (there is bfloat16 too)\n"
    "  --lengths LIST  tokens of a sequence, default 128\n"
    "  --batch N       sequences in a call, default 1\n"
    "  --runs N        timed calls of a model, default 40\n"
    "  --seconds N     most seconds for one measurement of a model, default 10\n"
    "  --quick         few runs, for a first look\n"
    "  --isa TIER      slower kernels than the fastest of this CPU, as SBK_ISA=TIER\n"
    "  --version, --help\n"
    "\n"
    "ms: of one call; p50 is the median, p90 is undercut by nine calls of ten. Gop/s: two operations for every\n"
    "multiply-add of convolutions and attention. % of peak: of the same tier, dtype and threads, measured just before\n"
    "and just after (the higher of both). last/first: median of the last quarter of the calls by that of the first.\n";

struct Options {
  std::string model, json;
  std::vector<int> cpus;
  std::vector<int64_t> threads, lengths;
  std::vector<sbk_dtype> dtypes;
  int64_t batch;
  Effort kernels, models;
  double peak_seconds;
};

struct Bench {
  Options options;
  Machine machine;
  std::string tier;
  Json json;
};

std::vector<sbk_dtype> parse_dtypes(std::string text) {
  std::vector<sbk_dtype> dtypes;
  for (text += ','; !text.empty(); text.erase(0, text.find(',') + 1)) {
    const sbk_dtype dtype = dtype_named(text.substr(0, text.find(',')));
    if (dtype == SBK_DTYPE_DEFAULT) throw UsageError("--dtypes: 'default' is none");
    dtypes.push_back(dtype);
  }
  return dtypes;
}

double mhz(int64_t khz) { return static_cast<double>(khz) / 1000; }

// A measurement, with the peak around it.
template <class F>
Times timed(Bench* bench, const char* name, sbk_dtype dtype, const Placement& where, double flops, const Effort& effort,
            const F& run) {
  Json& json = bench->json;
  const double seconds = bench->options.peak_seconds;
  json.open('{').field("name", name).field("dtype", dtype_name(dtype)).field("threads", where.threads);
  json.field("cpus", list_text(where.cpus)).field("pinned", where.kept);
  const auto clocks = [&](const char* key) {
    json.key(key).open('[');
    for (const int cpu : where.cpus) json.integer(current_khz(cpu));
    json.close();
  };
  clocks("khz_before");
  const std::optional<double> before = peak(bench->tier, dtype, where.threads, seconds);
  const Times t = measure(effort, run);
  const std::optional<double> after = peak(bench->tier, dtype, where.threads, seconds);
  clocks("khz_after");
  json.field("runs", t.runs).field("p50_ms", 1e3 * t.p50).field("p90_ms", 1e3 * t.p90).field("min_ms", 1e3 * t.least);
  json.field("first_quarter_ms", 1e3 * t.first_quarter).field("last_quarter_ms", 1e3 * t.last_quarter);
  json.field("flops", flops).field("gops", 1e-9 * flops / t.p50);
  std::printf("  %-20s %-8s %2d threads  %9.3f %9.3f %9.3f ms  %7.1f Gop/s", name, dtype_name(dtype), where.threads,
              1e3 * t.p50, 1e3 * t.p90, 1e3 * t.least, 1e-9 * flops / t.p50);
  if (before && after) {
    const double most = std::max(*before, *after);
    json.field("peak_before_gops", 1e-9 * *before).field("peak_after_gops", 1e-9 * *after);
    json.field("percent_of_peak", 100 * flops / t.p50 / most);
    std::printf("  %5.1f %% of peak", 100 * flops / t.p50 / most);
  } else {
    std::printf("  no peak known");
  }
  return t;
}

void show_machine(Bench* bench) {
  const Machine& m = bench->machine;
  Json& json = bench->json;
  std::string tiers;
  json.open('{').field("format", "sbk-bench 1").field("version", sbk_version());
  json.field("machine", m.model).field("system", m.system).field("compiler", m.compiler);
  json.key("features").open('[');
  std::string features;
  for (const std::string& feature : m.features) json.text(feature), features += " " + feature;
  json.close().key("tiers").open('[');
  for (int32_t i = 0; sbk_isa_name(i) != nullptr; i++)
    json.text(sbk_isa_name(i)), tiers += std::string(" ") + sbk_isa_name(i);
  json.close().field("tier", bench->tier);
  std::printf("sbk-bench %s, built by %s\n", sbk_version(), m.compiler.c_str());
  std::printf("machine   %s\nsystem    %s\nfeatures %s\n", m.model.empty() ? "unknown" : shown(m.model).c_str(),
              shown(m.system).c_str(), features.c_str());
  std::printf("tiers    %s; in use: %s\n", tiers.c_str(), bench->tier.c_str());

  json.key("cpus").open('[');
  for (const MachineCpu& cpu : m.cpus) {
    const bool used =
        std::find(bench->options.cpus.begin(), bench->options.cpus.end(), cpu.cpu) != bench->options.cpus.end();
    json.open('{').field("cpu", static_cast<int64_t>(cpu.cpu)).field("name", cpu.name).field("max_khz", cpu.max_khz);
    json.field("capacity", cpu.capacity).field("used", used).close();
    std::printf("CPU %-3d   %-16s ", cpu.cpu, cpu.name.c_str());
    if (cpu.max_khz > 0) std::printf("up to %.0f MHz", mhz(cpu.max_khz));
    if (cpu.max_khz == 0) std::printf("clock unknown");
    std::printf("%s\n", used ? ", used" : "");
  }
  json.close();
}

void show_peaks(Bench* bench) {
  constexpr sbk_dtype kAll[] = {SBK_FLOAT32, SBK_FLOAT16, SBK_BFLOAT16, SBK_INT8};
  std::printf("\npeaks: multiply-adds on registers, Gop/s\n  %-12s %-9s", "tier", "dtype");
  for (const int64_t threads : bench->options.threads) std::printf(" %3lld threads", static_cast<long long>(threads));
  std::printf("\n");
  Json& json = bench->json;
  json.key("peaks").open('[');
  for (int32_t i = 0; sbk_isa_name(i) != nullptr; i++) {
    const std::string tier = sbk_isa_name(i);
    for (const sbk_dtype dtype : kAll) {
      std::string numbers;
      bool known = true;
      for (const int64_t threads : bench->options.threads) {
        const Placement where = place(bench->machine, bench->options.cpus, static_cast<int32_t>(threads));
        const std::optional<double> rate = peak(tier, dtype, where.threads, bench->options.peak_seconds);
        if (!rate) {
          known = false;
          break;
        }
        json.open('{').field("tier", tier).field("dtype", dtype_name(dtype)).field("threads", where.threads);
        json.field("gops", 1e-9 * *rate).field("as_float32", is_float32_inside(tier, dtype)).close();
        char text[32];
        std::snprintf(text, sizeof text, " %11.1f", 1e-9 * *rate);
        numbers += text;
      }
      std::printf("  %-12s %-9s%s%s\n", tier.c_str(), dtype_name(dtype),
                  known ? numbers.c_str() : "  no loop in this build",
                  is_float32_inside(tier, dtype) ? "  as float32" : "");
      std::fflush(stdout);
      if (!known) break;
    }
  }
  json.close();
}

void time_kernels(Bench* bench) {
  constexpr int64_t kTokens = 128;
  std::printf("\nconvolutions of SqueezeBERT, 128 tokens: p50, p90, least\n");
  bench->json.key("kernels").open('[');
  for (const ConvCase& c : kConvCases) {
    for (const sbk_dtype dtype : bench->options.dtypes) {
      ConvWork work(c, dtype, kTokens);
      for (const int64_t threads : bench->options.threads) {
        const Placement where = place(bench->machine, bench->options.cpus, static_cast<int32_t>(threads));
        const ContextHandle context = make_context(where.threads);
        const auto run = [&] { work.run(context.get()); };
        timed(bench, c.name, dtype, where, c.flops(kTokens), bench->options.kernels, run);
        const double error = work.error();
        bench->json.field("error", error).close();
        std::printf("%s\n", error <= 1 ? "" : "  WRONG RESULT");
        std::fflush(stdout);
        if (!(error <= 1)) throw std::runtime_error(std::string(c.name) + ": the result is wrong: please report it");
      }
    }
  }
  bench->json.close();
}

// cos(angle) between what two dtypes make of one input.
double cosine(const std::vector<float>& a, const std::vector<float>& b) {
  double ab = 0, aa = 0, bb = 0;
  for (size_t i = 0; i < a.size(); i++) {
    ab += double{a[i]} * double{b[i]}, aa += double{a[i]} * double{a[i]}, bb += double{b[i]} * double{b[i]};
  }
  return ab / std::sqrt(aa * bb);
}

void time_model(Bench* bench, const sbk_model* model, int64_t length, std::vector<float>* reference) {
  const Options& options = bench->options;
  const sbk_model_info info = info_of(model);
  const int64_t tokens = options.batch * length;
  std::vector<int32_t> ids(static_cast<size_t>(tokens));
  for (int64_t i = 0; i < tokens; i++)
    ids[static_cast<size_t>(i)] = static_cast<int32_t>((i * 7919 + 1) % info.vocab_size);
  std::vector<float> hidden(static_cast<size_t>(tokens * info.hidden_size));
  sbk_input input{};
  input.size = sizeof input, input.token_ids = ids.data();
  input.batch = static_cast<int32_t>(options.batch), input.length = static_cast<int32_t>(length);
  sbk_output output{};
  output.size = sizeof output, output.hidden_states = hidden.data(), output.hidden_states_size = hidden.size();
  const std::string name = std::to_string(options.batch) + "x" + std::to_string(length);
  for (const int64_t threads : options.threads) {
    const Placement where = place(bench->machine, options.cpus, static_cast<int32_t>(threads));
    const ContextHandle context = make_context(where.threads);
    const auto run = [&] { check(sbk_run(model, context.get(), &input, &output)); };
    const double flops = encoder_flops(model, options.batch, length);
    const Times t = timed(bench, name.c_str(), info.dtype, where, flops, options.models, run);
    std::printf("  last/first %.2f", t.last_quarter / t.first_quarter);
    const bool finite = std::all_of(hidden.begin(), hidden.end(), [](float x) { return std::isfinite(x); });
    if (info.dtype == SBK_FLOAT32) *reference = hidden;
    bench->json.field("batch", options.batch).field("length", length).field("finite", finite);
    bench->json.field("model_bytes", info.mapped_bytes + info.allocated_bytes);
    if (reference->size() == hidden.size() && info.dtype != SBK_FLOAT32) {
      const double same = cosine(hidden, *reference);
      bench->json.field("cosine_to_float32", same);
      std::printf("  cosine to float32 %.5f", same);
    }
    bench->json.close();
    std::printf("\n");
    std::fflush(stdout);
    if (!finite) throw std::runtime_error("the model's hidden states are not finite");
  }
}

void time_models(Bench* bench) {
  const Options& options = bench->options;
  std::vector<ModelHandle> models;
  sbk_load_options load{};
  if (!options.model.empty()) {
    models.push_back(load_model(options.model, load));
  } else {
    const SyntheticModel files;
    for (const sbk_dtype dtype : options.dtypes) {
      load.dtype = dtype;
      models.push_back(load_model(files.folder(), load));
    }
  }
  const sbk_model_info info = info_of(models[0].get());
  std::printf("\n%s: %s, %d layers, %d channels: embeddings and encoder; p50, p90, least\n",
              options.model.empty() ? "synthetic model" : shown(options.model).c_str(), info.architecture,
              info.num_layers, info.hidden_size);
  Json& json = bench->json;
  json.key("model").open('{').field("file", options.model.empty() ? "synthetic" : options.model);
  json.field("architecture", info.architecture).field("num_layers", info.num_layers);
  json.field("hidden_size", info.hidden_size).field("intermediate_size", info.intermediate_size);
  json.field("num_heads", info.num_heads).field("repacked_bytes", info.repacked_bytes).close();
  json.key("models").open('[');
  for (const int64_t length : options.lengths) {
    std::vector<float> reference;
    for (const ModelHandle& model : models) time_model(bench, model.get(), length, &reference);
  }
  json.close();
}

// Before anything is measured.
void check_lengths(const Options& options) {
  int32_t most = SyntheticModel::max_length;
  if (!options.model.empty()) most = info_of(load_model(options.model, {}).get()).max_length;
  for (const int64_t length : options.lengths) {
    if (length > most) throw UsageError("--lengths: the model takes at most " + std::to_string(most) + " tokens");
  }
}

void check_cpus(const Options& options, const Machine& machine) {
  std::vector<int> usable;
  for (const MachineCpu& cpu : machine.cpus) usable.push_back(cpu.cpu);
  for (const int cpu : options.cpus) {
    if (std::find(usable.begin(), usable.end(), cpu) == usable.end()) {
      throw UsageError("--cpus: CPU " + std::to_string(cpu) + " cannot be used; these can: " + list_text(usable));
    }
  }
}

Options parse(const Arguments& arguments) {
  Options o{};
  if (arguments.positional.size() > 1) throw UsageError("more than one model is given");
  if (!arguments.positional.empty()) o.model = arguments.positional[0];
  o.json = arguments.text("--json", "");
  if (arguments.has("--json") && o.json.empty()) throw UsageError("--json needs a file");
  if (arguments.has("--cpus")) {
    o.cpus = parse_cpu_list(arguments.text("--cpus", ""));
  } else {
    std::vector<int32_t> big(static_cast<size_t>(sbk_big_cores(nullptr, 0)));
    sbk_big_cores(big.data(), static_cast<int32_t>(big.size()));
    o.cpus.assign(big.begin(), big.end());
  }
  o.threads = {1};
  if (o.cpus.size() > 1) o.threads.push_back(static_cast<int64_t>(o.cpus.size()));
  if (arguments.has("--threads")) o.threads = parse_numbers("--threads", arguments.text("--threads", ""), 1, 1024);
  o.lengths = parse_numbers("--lengths", arguments.text("--lengths", "128"), 1, 1 << 16);
  o.dtypes = parse_dtypes(arguments.text("--dtypes", "float32,float16,int8"));
  o.batch = arguments.number("--batch", 1, 1, 4096);
  const bool quick = arguments.has("--quick");
  o.models.runs = arguments.number("--runs", quick ? 5 : 40, 1, 1'000'000);
  o.models.seconds = static_cast<double>(arguments.number("--seconds", quick ? 2 : 10, 1, 100'000));
  o.kernels.runs = quick ? 5 : 30, o.kernels.seconds = 2, o.kernels.sample = quick ? 0.001 : 0.004;
  o.peak_seconds = quick ? 0.01 : 0.03;
  return o;
}

void body(int argc, char** argv) {
  const Arguments arguments(argc, argv,
                            {{"--json", true},
                             {"--threads", true},
                             {"--cpus", true},
                             {"--dtypes", true},
                             {"--lengths", true},
                             {"--batch", true},
                             {"--runs", true},
                             {"--seconds", true},
                             {"--quick", false},
                             {"--isa", true},
                             {"--version", false},
                             {"--help", false}});
  if (arguments.has("--help")) return void(std::fputs(kUsage, stdout));
  if (arguments.has("--version")) return void(std::printf("sbk-bench %s\n", sbk_version()));
  if (arguments.has("--isa")) setenv("SBK_ISA", arguments.text("--isa", "").c_str(), 1);
  if (sbk_active_isa() == nullptr) throw UsageError(sbk_last_error());

  Bench bench{parse(arguments), read_machine(), sbk_active_isa(), {}};
  check_lengths(bench.options);
  if (arguments.has("--cpus")) check_cpus(bench.options, bench.machine);
  const std::string& json = bench.options.json;
  if (!json.empty()) FileWriter::check(json);  // now, rather than after minutes
  show_machine(&bench);
  std::string threads;
  for (const int64_t n : bench.options.threads) threads += (threads.empty() ? "" : ", ") + std::to_string(n);
  std::printf("threads   %s, on CPUs %s\n", threads.c_str(), list_text(bench.options.cpus).c_str());
  if (!place(bench.machine, bench.options.cpus, static_cast<int32_t>(bench.options.cpus.size())).kept) {
    std::fprintf(stderr, "sbk-bench: note: the system does not let threads stay on CPUs %s\n",
                 list_text(bench.options.cpus).c_str());
  }
  show_peaks(&bench);
  time_kernels(&bench);
  time_models(&bench);
  if (json.empty()) return;
  const std::string text = bench.json.close().str() + "\n";
  FileWriter::replace(json, [&](FileWriter& file) { file.write(text.data(), text.size()); });
  std::printf("\nwritten: %s\n", shown(json).c_str());
}

}  // namespace

int main(int argc, char** argv) { return run_main("sbk-bench", body, argc, argv); }
