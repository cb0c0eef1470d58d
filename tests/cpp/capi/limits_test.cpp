// Limits on sizes (model/limits.h): what has more is refused by name, and costs neither memory nor time before that.
// Memory is what operator new hands out: the peak, in bytes. Sparse files have sizes but no contents.
#include <fcntl.h>
#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>

#include "capi_case.h"
#include "model/limits.h"
#include "sbk_file.h"
#include "support/cpu_time.h"

namespace {

std::atomic<int64_t> in_use{0}, peak{0};

void* counted(void* p) {
  if (p == nullptr) throw std::bad_alloc();
  const int64_t now = in_use += static_cast<int64_t>(malloc_usable_size(p));
  if (now > peak) peak = now;
  return p;
}

void release(void* p) {
  if (p != nullptr) in_use -= static_cast<int64_t>(malloc_usable_size(p));
  std::free(p);
}

}  // namespace

void* operator new(std::size_t bytes) { return counted(std::malloc(std::max<std::size_t>(bytes, 1))); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  const auto to = static_cast<std::size_t>(alignment);
  return counted(std::aligned_alloc(to, (std::max<std::size_t>(bytes, 1) + to - 1) / to * to));
}
void operator delete(void* p) noexcept { release(p); }
void operator delete(void* p, std::size_t) noexcept { release(p); }
void operator delete(void* p, std::align_val_t) noexcept { release(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { release(p); }

using namespace test;
namespace limits = sbk::limits;

namespace {

constexpr int64_t kMiB = 1 << 20;

// The status of loading `path`; the most memory it took is in `taken`.
sbk_status load_counting(const std::string& path, int64_t* taken, int32_t verify = 0) {
  sbk_load_options options{};
  options.size = sizeof options, options.verify = verify;
  ModelHandle model;
  const int64_t before = in_use;
  peak = before;
  const sbk_status status = sbk_model_load(path.c_str(), &options, model.out());
  *taken = peak - before;
  return status;
}

void refused(const std::string& path, const std::string& words, int64_t most_bytes, sbk_status want = SBK_BAD_FILE) {
  int64_t taken = 0;
  expect(load_counting(path, &taken), want, words);
  const Context where([&] { return text(path, " took ", taken, " bytes"); });
  CHECK(taken <= most_bytes);
}

void stretch(const std::string& path, int64_t bytes) {
  const int fd = open(path.c_str(), O_WRONLY);
  CHECK(fd >= 0 && ftruncate(fd, bytes) == 0);
  close(fd);
}

std::string file_of(const std::vector<sbk::FileSection>& sections) {
  Folder folder;
  const std::string path = folder.file("made.sbk");
  sbk::write_container(path, "scalar", sections);
  return read_file(path);
}

sbk::FileSection section(const std::string& name, const std::string& bytes) {
  return {name,
          sbk::SectionKind::text,
          sbk::WeightType::float32,
          0,
          0,
          reinterpret_cast<const std::byte*>(bytes.data()),
          bytes.size()};
}

}  // namespace

TEST(the_tier_is_chosen) { choose_tier(table); }

TEST(sparse_files_cost_no_memory) {
  constexpr int64_t kHuge = int64_t{4} << 30;
  for (const char* name : {"config.json", "tokenizer.sbk", "model.safetensors"}) {
    Folder folder{smallest_model(), true};
    stretch(folder.path() + "/" + name, kHuge);
    if (std::string(name) == "model.safetensors") {
      int64_t taken = 0;
      expect(load_counting(folder.path(), &taken), SBK_OK);  // there may be anything behind the tensors
      CHECK(taken < kMiB);
      // A header of 60 MB, and one of almost everything.
      for (const uint64_t header : {uint64_t{60'000'000}, static_cast<uint64_t>(kHuge - 8)}) {
        std::string start(reinterpret_cast<const char*>(&header), sizeof header);
        folder.write(name, start + "{");
        stretch(folder.path() + "/" + name, kHuge);
        refused(folder.path(), "its header has", kMiB);
      }
    } else {
      refused(folder.path(), text(kHuge, " bytes, more than"), kMiB);
    }
  }
  // A .sbk file of 4 GB with a section of most of it, whatever its kind.
  const std::string good = sbk_file(smallest_model(), SBK_FLOAT32, "scalar");
  for (const auto kind : {sbk::SectionKind::text, sbk::SectionKind::values}) {
    std::string file = good;
    auto header = get<sbk::FileHeader>(file, 0);
    header.file_bytes = kHuge;
    const std::size_t last = entry_count(file) - 1;
    sbk::SectionEntry e = entry(file, last);
    e.bytes = static_cast<uint64_t>(kHuge) - e.offset;
    e.kind = kind, e.rows = e.columns = 0;
    if (kind == sbk::SectionKind::values) e.rows = static_cast<int64_t>(e.bytes / 4), e.columns = 1;
    put(file, entry_at(last), e);
    put(file, 0, header);
    correct(file);
    Folder folder;
    folder.write("huge.sbk", file);
    stretch(folder.path() + "/huge.sbk", kHuge);
    refused(folder.path() + "/huge.sbk", e.name, kMiB);
  }
}

TEST(many_values_in_little_text) {
  const auto repeated = [](const std::string& part, int64_t times) {
    std::string all;
    for (int64_t i = 0; i < times; i++) all += part;
    return all;
  };
  const std::string members[] = {
      "\"a\": [" + repeated("1,", 3 << 20) + "1]",
      "\"a\": [" + repeated("[],", 2 << 20) + "1]",
      "\"a\": [" + repeated("\"\",", 2 << 20) + "1]",
  };
  for (const std::string& member : members) {
    TinyModel tiny = smallest_model();
    tiny.more = ", " + member;
    Folder folder{tiny};
    refused(folder.path(), "too many values", 120 * kMiB);
    const std::string header = "{" + member + "}";
    const uint64_t bytes = header.size();
    folder.write("config.json", smallest_model().config());
    folder.write("model.safetensors", std::string(reinterpret_cast<const char*>(&bytes), sizeof bytes) + header);
    refused(folder.path(), "too many values", 120 * kMiB);
  }
  TinyModel tiny = smallest_model();
  std::string keys;
  for (int i = 0; i < 600'000; i++) keys += ",\"" + std::to_string(i) + "\":1";
  tiny.more = keys;
  Folder folder{tiny};
  refused(folder.path(), "too many values", 120 * kMiB);
}

TEST(sizes_in_a_configuration) {
  const auto beyond = [](const char* key, int64_t most, sbk_status want = SBK_BAD_FILE) {
    for (const std::string& value : {std::to_string(most + 1), std::string("1e15"), std::string("4294967297")}) {
      TinyModel tiny = smallest_model();
      tiny.more = std::string(", \"") + key + "\": " + value;
      Folder folder{tiny};
      refused(folder.path(), key, kMiB, want);
    }
  };
  beyond("vocab_size", limits::kVocabulary);
  beyond("num_hidden_layers", limits::kLayers);
  beyond("max_position_embeddings", limits::kPositions);
  beyond("type_vocab_size", limits::kTokenTypes);
  beyond("num_labels", limits::kLabels);
  for (const char* key : {"hidden_size", "intermediate_size", "num_attention_heads", "embedding_size", "q_groups",
                          "k_groups", "v_groups", "post_attention_groups", "intermediate_groups", "output_groups"}) {
    beyond(key, limits::kHidden);
  }
  // Each is allowed, all together are not.
  TinyModel tiny = smallest_model();
  tiny.more = text(", \"vocab_size\": ", limits::kVocabulary, ", \"hidden_size\": 1024, \"embedding_size\": 1024");
  refused(Folder{tiny}.path(), "weights, more than", kMiB, SBK_UNSUPPORTED);
  tiny.more = text(", \"num_hidden_layers\": ", limits::kLayers, ", \"hidden_size\": ", limits::kHidden,
                   ", \"intermediate_size\": ", limits::kHidden, ", \"embedding_size\": ", limits::kHidden);
  refused(Folder{tiny}.path(), "weights, more than", kMiB, SBK_UNSUPPORTED);
}

TEST(a_tensor_of_many_dimensions) {
  Folder folder{smallest_model()};
  std::string header = "{\"a\": {\"dtype\": \"F32\", \"shape\": [1";
  for (int i = 0; i < 100; i++) header += ", 1";
  header += "], \"data_offsets\": [0, 4]}}";
  const uint64_t bytes = header.size();
  folder.write("model.safetensors",
               std::string(reinterpret_cast<const char*>(&bytes), sizeof bytes) + header + std::string(4, 'x'));
  refused(folder.path(), "101 dimensions, more than 8", kMiB);
}

TEST(texts) {
  Folder folder{smallest_model(), true};
  const ModelHandle model = load(folder.path());
  sbk_text in{};
  in.size = sizeof in, in.text = "a", in.text_bytes = SBK_MAX_TEXT_BYTES + int64_t{1};
  sbk_tokens out{};
  out.size = sizeof out, out.capacity = 4;
  int32_t count = 0;
  expect(sbk_tokenize(model, &in, &out, &count), SBK_INVALID_ARGUMENT, "text->text_bytes=268435457 is not from 0 to");
  in.text_bytes = 1, in.pair = "a", in.pair_bytes = SBK_MAX_TEXT_BYTES + int64_t{1};
  expect(sbk_tokenize(model, &in, &out, &count), SBK_INVALID_ARGUMENT, "text->pair_bytes=268435457 is not from 0 to");
}

// Sections that nobody asks for, and a model of many layers that asks for each of its own.
TEST(sections) {
  const std::string config = smallest_model().config();
  std::vector<sbk::FileSection> sections{section("config.json", config)};
  std::string empty;
  while (sections.size() <= limits::kSections) {
    sections.push_back(section("unknown." + std::to_string(sections.size()), empty));
  }
  Folder folder;
  folder.write("many.sbk", file_of(sections));
  refused(folder.path() + "/many.sbk", "65537 sections, more than 65536", kMiB);
  sections.pop_back();
  folder.write("most.sbk", file_of(sections));
  refused(folder.path() + "/most.sbk", "is missing", 32 * kMiB);
  sections.push_back(sections[1]);
  sections.erase(sections.begin() + 2);
  folder.write("two.sbk", file_of(sections));
  refused(folder.path() + "/two.sbk", "unknown.1: there are two of this name", 32 * kMiB);
}

TEST(loading_is_linear_in_sections) {
  const auto seconds = [](int layers) {
    TinyModel tiny = smallest_model();
    tiny.layers = layers;
    Folder folder;
    folder.write("deep.sbk", sbk_file(tiny, SBK_FLOAT32, "scalar"));
    double best = 1e9;
    for (int i = 0; i < 3; i++) {
      const double before = cpu_seconds();
      int64_t taken = 0;
      expect(load_counting(folder.path() + "/deep.sbk", &taken), SBK_OK);
      best = std::min(best, cpu_seconds() - before);
    }
    return best;
  };
  // Sixteen times the layers took 250 times as long.
  const double few = seconds(150), many = seconds(2400);
  const Context where([&] { return text(few, " s and ", many, " s"); });
  CHECK(many < 64 * few);
}

TEST(only_as_much_memory_as_tokens_are_kept) {
  Folder folder{smallest_model(), true};
  const ModelHandle model = load(folder.path());
  for (const char* part : {"a ", "a", " ", "[MASK]", "[MASK", "\xc3\xa9", "\xff", "abababababab "}) {
    std::string words;
    while (words.size() < 2'000'000) words += part;
    for (const char* pair : {static_cast<const char*>(nullptr), words.c_str()}) {
      sbk_text in{};
      in.size = sizeof in, in.text = words.data(), in.text_bytes = static_cast<int64_t>(words.size());
      in.pair = pair, in.pair_bytes = pair != nullptr ? in.text_bytes : 0;
      int32_t ids[4], count = 0;
      sbk_tokens out{};
      out.size = sizeof out, out.capacity = 4, out.token_ids = ids;
      const int64_t before = in_use;
      peak = before;
      expect(sbk_tokenize(model, &in, &out, &count), SBK_OK);
      const Context where([&] { return text("'", part, "': ", peak - before, " bytes"); });
      CHECK(peak - before < 100'000);
    }
  }
}
