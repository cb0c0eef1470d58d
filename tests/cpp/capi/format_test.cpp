// The .sbk format (docs/format.md): nothing is hidden in a file, and files that were written once stay readable. The
// golden files lie beside this one.
//
//   format_test TIER                    runs the tests
//   SBK_GOLDEN_WRITE=FOLDER format_test scalar     writes the golden files: of a new version of the format only
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "capi_case.h"
#include "model/limits.h"
#include "sbk_file.h"

using namespace test;

namespace {

struct Golden {
  const char* name;
  sbk_dtype dtype;
  const char* tier;
  bool bert;
  const char* architecture;
  bool tokenizer;
  float tolerance;  // of the other tiers' rounding
};
constexpr Golden kGolden[] = {
    {"float32-scalar", SBK_FLOAT32, "scalar", false, "SqueezeBertForMaskedLM", false, 1e-5f},
    {"float32-avx512", SBK_FLOAT32, "avx512", true, "BertForSequenceClassification", true, 1e-5f},
    {"float16-neondot", SBK_FLOAT16, "neondot", true, "BertForTokenClassification", false, 2e-2f},
    {"bfloat16-avx512bf16", SBK_BFLOAT16, "avx512bf16", false, "SqueezeBertModel", false, 5e-2f},
    {"int8-neoni8mm", SBK_INT8, "neoni8mm", false, "SqueezeBertForQuestionAnswering", false, 1e-1f},
};

TinyModel model_of(const Golden& golden) {
  TinyModel tiny = smallest_model();
  tiny.bert = golden.bert, tiny.architecture = golden.architecture;
  return tiny;
}

std::string path_of(const std::string& folder, const Golden& golden, const char* ending) {
  return folder + "/" + golden.name + ending;
}

// Everything that the model says of a few tokens.
std::vector<float> results(const std::string& path) {
  const ModelHandle model = load(path);
  sbk_model_info info{};
  info.size = sizeof info;
  expect(sbk_model_get_info(model, &info), SBK_OK);
  constexpr int32_t ids[] = {2, 5, 8, 3}, types[] = {0, 0, 1, 1};
  std::vector<float> hidden(static_cast<std::size_t>(4 * info.hidden_size)),
      pooled(static_cast<std::size_t>(info.hidden_size)), logits(static_cast<std::size_t>(4 * info.num_labels));
  const bool per_row = info.head == SBK_HEAD_SEQUENCE_CLASSIFICATION;
  if (per_row) logits.resize(static_cast<std::size_t>(info.num_labels));
  sbk_input in{};
  in.size = sizeof in, in.batch = 1, in.length = 4, in.token_ids = ids, in.token_type_ids = types;
  sbk_output out{};
  out.size = sizeof out, out.hidden_states = hidden.data(), out.hidden_states_size = hidden.size();
  out.pooled = pooled.data(), out.pooled_size = pooled.size();
  if (!logits.empty()) out.logits = logits.data(), out.logits_size = logits.size();
  ContextHandle context;
  expect(sbk_context_create(nullptr, context.out()), SBK_OK);
  expect(sbk_run(model, context, &in, &out), SBK_OK);
  hidden.insert(hidden.end(), pooled.begin(), pooled.end());
  hidden.insert(hidden.end(), logits.begin(), logits.end());
  return hidden;
}

void write_golden(const std::string& folder) {
  for (const Golden& golden : kGolden) {
    const std::string path = path_of(folder, golden, ".sbk");
    write_file(path, sbk_file(model_of(golden), golden.dtype, golden.tier, golden.tokenizer));
    std::ostringstream text;
    text.precision(9);
    for (const float value : results(path)) text << value << "\n";
    write_file(path_of(folder, golden, ".txt"), text.str());
  }
}

// The status of a changed file, whose checksums are right, with and without `verify`.
struct Statuses {
  Folder folder;
  std::string path = folder.file("changed.sbk");

  void operator()(const std::string& bytes, sbk_status plain, sbk_status verified, const std::string& words) {
    write_file(path, bytes);
    expect(load_and_use(path), plain, words);
    expect(load_and_use(path, true), verified, words);
  }
};

}  // namespace

TEST(the_tier_is_chosen) {
  choose_tier(table);
  if (const char* folder = std::getenv("SBK_GOLDEN_WRITE")) write_golden(folder);
}

TEST(golden_files_are_read) {
  for (const Golden& golden : kGolden) {
    const Context where([&] { return std::string(golden.name); });
    std::ifstream text(path_of(SBK_GOLDEN, golden, ".txt"));
    std::vector<float> want, got = results(path_of(SBK_GOLDEN, golden, ".sbk"));
    for (float value; text >> value;) want.push_back(value);
    CHECK_EQ(want.size(), got.size());
    for (std::size_t i = 0; i < std::min(want.size(), got.size()); i++) {
      CHECK(std::abs(want[i] - got[i]) <= golden.tolerance * (1 + std::abs(want[i])));
    }
  }
}

// A change of what is written is a new version of the format, with golden files of its own beside these.
TEST(the_same_model_becomes_the_same_file) {
#if defined(__x86_64__)  // elsewhere the random weights are rounded otherwise
  for (const Golden& golden : kGolden) {
    const Context where([&] { return std::string(golden.name); });
    CHECK(sbk_file(model_of(golden), golden.dtype, golden.tier, golden.tokenizer) ==
          read_file(path_of(SBK_GOLDEN, golden, ".sbk")));
  }
#endif
}

TEST(unknown_versions_are_refused_by_number) {
  Statuses status;
  for (const uint32_t version : {0u, 2u, 3u, 0xffffffffu}) {
    std::string file = sbk_file(smallest_model(), SBK_FLOAT32, "scalar");
    put(file, offsetof(sbk::FileHeader, version), version);
    correct(file);
    status(file, SBK_BAD_FILE, SBK_BAD_FILE, text("version ", version, " of the format, this library reads version 1"));
  }
}

TEST(reserved_fields_are_zero) {
  Statuses status;
  const std::string good = sbk_file(smallest_model(), SBK_INT8, "scalar", true);
  const auto with = [&](std::size_t at, std::size_t bytes, const std::string& words) {
    for (std::size_t i = 0; i < bytes; i++) {
      for (const int bit : {0, 7}) {
        std::string file = good;
        file[at + i] = static_cast<char>(1 << bit);
        correct(file);
        const Context where([&] { return text("byte ", at + i); });
        status(file, SBK_BAD_FILE, SBK_BAD_FILE, words);
      }
    }
  };
  with(offsetof(sbk::FileHeader, reserved), 8, "a reserved field of the header is not 0");
  const std::size_t in_tier = offsetof(sbk::FileHeader, tier);
  with(in_tier + 7, 9, "damaged header");  // behind "scalar"
  using E = sbk::SectionEntry;
  for (std::size_t i = 0; i < entry_count(good); i += 4) {
    with(entry_at(i) + offsetof(E, reserved), 2, "a reserved field is not 0");
    with(entry_at(i) + offsetof(E, reserved2), 8, "a reserved field is not 0");
    const std::size_t name = std::string(entry(good, i).name).size();
    with(entry_at(i) + name + 1, sizeof(E::name) - name - 1, "a section has no name");
  }
  for (std::size_t i = 0; i < entry_count(good); i++) {
    const E e = entry(good, i);
    if (e.kind == sbk::SectionKind::text) with(entry_at(i) + offsetof(E, rows), 16, "");
    if (e.kind != sbk::SectionKind::values) with(entry_at(i) + offsetof(E, type), 1, "");
    if (e.kind == sbk::SectionKind::packed) {
      with(e.offset + offsetof(sbk::PackedHeader, fingerprint), 8, "a reserved field is not 0");
    }
    if (std::string(e.name) == "tokenizer.sbk") {
      with(e.offset + offsetof(sbk::TokenizerHeader, reserved), 4, "a reserved field is not 0");
    }
  }
}

TEST(nothing_is_hidden_in_a_verified_file) {
  Statuses status;
  const std::string good = sbk_file(smallest_model(), SBK_INT8, "scalar");
  const std::size_t count = entry_count(good);
  // Between sections.
  int64_t gaps = 0;
  for (std::size_t i = 1; i < count; i++) {
    const auto end = static_cast<std::size_t>(entry(good, i - 1).offset + entry(good, i - 1).bytes);
    if (end == entry(good, i).offset) continue;
    gaps++;
    std::string file = good;
    file[end] = 'x';
    correct(file);
    status(file, SBK_OK, SBK_BAD_FILE, text(entry(good, i).name, ": something is hidden before it"));
  }
  CHECK(gaps > 3);
  // In the zeros within a section of int8 values.
  for (std::size_t i = 0; i < count; i++) {
    const sbk::SectionEntry e = entry(good, i);
    const auto values = static_cast<std::size_t>(e.rows * e.columns);
    if (e.kind != sbk::SectionKind::int8 || values % 64 == 0) continue;
    std::string file = good;
    file[static_cast<std::size_t>(e.offset) + values] = 'x';
    correct(file);
    status(file, SBK_OK, SBK_BAD_FILE, text(e.name, ": something is hidden in it"));
  }
  // A hole: everything from a section on lies further behind.
  for (const std::size_t from : {std::size_t{0}, count / 2, count - 1}) {
    std::string file = good;
    file.insert(static_cast<std::size_t>(entry(good, from).offset), std::string(64, '\0'));
    for (std::size_t i = from; i < count; i++) {
      sbk::SectionEntry e = entry(file, i);
      e.offset += 64;
      put(file, entry_at(i), e);
    }
    correct(file, true);
    status(file, SBK_OK, SBK_BAD_FILE, text(entry(good, from).name, ": something is hidden before it"));
  }
  // Behind the last section.
  for (const std::size_t more : {1, 64, 1000}) {
    std::string file = good + std::string(more, '\0');
    correct(file, true);
    status(file, SBK_OK, SBK_BAD_FILE, text(more, " bytes are behind its last section"));
  }
  // The same name twice.
  for (std::size_t i = 1; i < count; i += 3) {
    std::string file = good;
    std::memcpy(file.data() + entry_at(i), file.data() + entry_at(i - 1), sizeof sbk::SectionEntry::name);
    correct(file);
    status(file, SBK_BAD_FILE, SBK_BAD_FILE, text(entry(good, i - 1).name, ": there are two of this name"));
  }
}

TEST(small_files_are_verified_if_nobody_says_otherwise) {
  std::string file = sbk_file(smallest_model(), SBK_FLOAT32, "scalar");
  file.back() ^= 0x40;
  Folder folder;
  const std::string path = folder.file("damaged.sbk");
  write_file(path, file);
  const auto load_with = [&](int32_t verify) {
    sbk_load_options options{};
    options.size = sizeof options, options.verify = verify;
    ModelHandle model;
    return sbk_model_load(path.c_str(), &options, model.out());
  };
  expect(load_with(1), SBK_BAD_FILE, "wrong checksum");
  expect(load_with(-1), SBK_BAD_FILE, "wrong checksum");
  expect(load_with(0), SBK_OK);
  // A larger one is not: a section that nobody reads makes it large, and nothing of it lies on the disk.
  auto header = get<sbk::FileHeader>(file, 0);
  sbk::SectionEntry last = entry(file, entry_count(file) - 1);
  CHECK(last.kind != sbk::SectionKind::text);
  header.file_bytes = sbk::limits::kVerifiedBytes;
  put(file, 0, header);
  correct(file);
  file.back() ^= 0x40;
  write_file(path, file);
  CHECK_EQ(truncate(path.c_str(), static_cast<off_t>(header.file_bytes)), 0);
  expect(load_with(-1), SBK_OK);
  expect(load_with(1), SBK_BAD_FILE);
}
