// Damaged and hostile files: always a status and a message, never a crash, however they are damaged. For sanitizers.
#include <algorithm>
#include <clocale>

#include "capi_case.h"
#include "include/squeezebert_kernels.h"
#include "isa/layouts.h"
#include "sbk_file.h"

using namespace test;

namespace {

constexpr sbk_dtype kDtypes[] = {SBK_FLOAT32, SBK_BFLOAT16, SBK_INT8, SBK_FLOAT16};

// A place for files that are written over and over.
struct Target {
  Folder folder;
  std::string path = folder.file("damaged.sbk");

  sbk_status status(const std::string& bytes, bool verify = false) {
    write_file(path, bytes);
    return load_and_use(path, verify);
  }
};

constexpr uint64_t kHostile[] = {0,
                                 1,
                                 63,
                                 64,
                                 128,
                                 0x7fffffff,
                                 0x80000000,
                                 0xffffffff,
                                 uint64_t{1} << 32,
                                 (uint64_t{1} << 61) + 64,
                                 0x7fffffffffffffc0,
                                 0x7fffffffffffffff,
                                 0x8000000000000000,
                                 0xffffffffffffffc0,
                                 0xffffffffffffffff};

// Writes every hostile value at `at`, as `bytes` bytes, one at a time, with checksums that are right.
template <class F>
void with_hostile_values(const std::string& good, std::size_t at, std::size_t bytes, const F& f) {
  for (const uint64_t value : kHostile) {
    std::string file = good;
    std::memcpy(file.data() + at, &value, bytes);
    if (file == good) continue;
    correct(file);
    const Context where([&] { return text("value ", value, " at byte ", at); });
    f(file);
  }
}

bool is_refusal(sbk_status status) { return status == SBK_BAD_FILE || status == SBK_UNSUPPORTED; }

}  // namespace

TEST(the_tier_is_chosen) { choose_tier(table); }

TEST(the_good_file_is_good) {
  Target target;
  for (const sbk_dtype dtype : kDtypes) {
    std::string file = sbk_file(smallest_model(), dtype, nullptr, true);
    expect(target.status(file, true), SBK_OK);
    const std::string same = file;
    correct(file, true);
    CHECK(file == same);  // sbk_file.h knows the checksums
  }
}

TEST(truncated_anywhere) {
  Target target;
  const std::string file = sbk_file(smallest_model(), SBK_INT8, nullptr);
  std::vector<std::size_t> ends;
  for (std::size_t i = 0; i < entry_count(file); i++) {
    const sbk::SectionEntry e = entry(file, i);
    for (const std::size_t at :
         {entry_at(i), static_cast<std::size_t>(e.offset), static_cast<std::size_t>(e.offset + e.bytes)}) {
      for (int d = -1; d <= 1; d++) ends.push_back(at + static_cast<std::size_t>(d));
    }
  }
  for (std::size_t at = 0; at < file.size(); at += at < 256 ? 1 : 97) ends.push_back(at);
  for (const std::size_t end : ends) {
    if (end >= file.size()) continue;
    const Context where([&] { return text("cut to ", end, " of ", file.size()); });
    std::string cut = file.substr(0, end);
    expect(target.status(cut), SBK_BAD_FILE, end == 0 ? "" : "damaged.sbk");
    correct(cut, true);  // as if it had been written like this
    expect(target.status(cut), SBK_BAD_FILE);
  }
  expect(target.status(file + std::string(64, '\0')), SBK_BAD_FILE, "should be");
}

TEST(every_bit_of_the_header_and_of_text) {
  Target target;
  const std::string file = sbk_file(smallest_model(), SBK_FLOAT32, nullptr);
  const sbk::SectionEntry config = entry(file, 0);
  CHECK_EQ(std::string(config.name), "config.json");
  const auto flip = [&](std::size_t byte, int bit) {
    const Context where([&] { return text("byte ", byte, " bit ", bit); });
    std::string damaged = file;
    damaged[byte] = static_cast<char>(damaged[byte] ^ 1 << bit);
    expect(target.status(damaged), SBK_BAD_FILE);
  };
  const std::size_t header = entry_at(entry_count(file));
  for (std::size_t byte = 0; byte < header; byte++) {
    if (byte < 128) {
      for (int bit = 0; bit < 8; bit++) flip(byte, bit);
    } else {
      flip(byte, static_cast<int>(byte % 8));
    }
  }
  for (std::size_t i = 0; i < config.bytes; i += 3) flip(static_cast<std::size_t>(config.offset) + i, 1);
}

TEST(damaged_weights_are_found_when_asked) {
  Target target;
  for (const sbk_dtype dtype : {SBK_FLOAT32, SBK_INT8}) {
    const std::string file = sbk_file(smallest_model(), dtype, nullptr);
    for (std::size_t i = 1; i < entry_count(file); i++) {
      const sbk::SectionEntry e = entry(file, i);
      const Context where([&] { return std::string(e.name); });
      std::string damaged = file;
      damaged[static_cast<std::size_t>(e.offset + e.bytes) - 1] ^= 0x40;
      expect(target.status(damaged, true), SBK_BAD_FILE, e.name);
      target.status(damaged);  // whatever it says
    }
  }
}

TEST(foreign_and_future_files) {
  Target target;
  const std::string file = sbk_file(smallest_model(), SBK_FLOAT32, nullptr);
  const auto refused = [&](const std::string& words, const auto& change) {
    std::string damaged = file;
    auto header = get<sbk::FileHeader>(damaged, 0);
    change(header);
    put(damaged, 0, header);
    correct(damaged);
    expect(target.status(damaged), SBK_BAD_FILE, words);
  };
  refused("not a .sbk file", [](auto& h) { h.magic[0] = 's'; });
  refused("version 2", [](auto& h) { h.version = 2; });
  refused("version 0", [](auto& h) { h.version = 0; });
  refused("byte order", [](auto& h) { h.endianness = 0x04030201; });
  refused("should be", [](auto& h) { h.file_bytes++; });
  refused("damaged header", [](auto& h) { h.sections = ~uint64_t{0}; });
  refused("is missing", [](auto& h) { h.sections = 0; });
  refused("tier 'sse9' is unknown", [](auto& h) { std::strncpy(h.tier, "sse9", sizeof h.tier); });
  refused("damaged header", [](auto& h) { std::memset(h.tier, 'x', sizeof h.tier); });
  // Another tier's name than that of its layout.
  for (const sbk::TierLayout& tier : sbk::kTierLayouts) {
    std::string renamed = file;
    auto header = get<sbk::FileHeader>(renamed, 0);
    std::memset(header.tier, 0, sizeof header.tier);
    std::strcpy(header.tier, tier.tier);
    put(renamed, 0, header);
    correct(renamed);
    const sbk_status status = target.status(renamed);
    CHECK(status == SBK_OK || status == SBK_BAD_FILE);
  }
  for (const char* junk :
       {"", "x", "PK\3\4 some archive that is longer than the header of the file, which has 64 bytes"}) {
    expect(target.status(junk), SBK_BAD_FILE);
  }
}

TEST(hostile_entries_with_right_checksums) {
  Target target;
  for (const sbk_dtype dtype : {SBK_FLOAT32, SBK_INT8}) {
    const std::string file = sbk_file(smallest_model(), dtype, nullptr, dtype == SBK_INT8);
    for (std::size_t i = 0; i < entry_count(file); i++) {
      const Context where([&] { return text("dtype ", dtype, " entry ", i, " ", entry(file, i).name); });
      const auto any = [&](const std::string& damaged) {
        const sbk_status status = target.status(damaged);
        CHECK(status == SBK_OK || is_refusal(status));
      };
      const auto bad = [&](const std::string& damaged) { CHECK(is_refusal(target.status(damaged))); };
      using E = sbk::SectionEntry;
      with_hostile_values(file, entry_at(i) + offsetof(E, kind), 4, any);
      with_hostile_values(file, entry_at(i) + offsetof(E, type), 2, any);
      with_hostile_values(file, entry_at(i) + offsetof(E, rows), 8, any);
      with_hostile_values(file, entry_at(i) + offsetof(E, columns), 8, any);
      with_hostile_values(file, entry_at(i) + offsetof(E, offset), 8, bad);
      with_hostile_values(file, entry_at(i) + offsetof(E, bytes), 8, any);
      std::string damaged = file;
      std::memset(damaged.data() + entry_at(i), 'x', sizeof E::name);
      correct(damaged);
      bad(damaged);
      // Another section's place, or name.
      for (std::size_t j = 0; j < entry_count(file); j += 5) {
        damaged = file;
        E e = entry(file, i);
        std::memcpy(e.name, entry(file, j).name, sizeof e.name);
        put(damaged, entry_at(i), e);
        correct(damaged);
        any(damaged);
      }
    }
  }
}

TEST(hostile_packed_headers_with_right_checksums) {
  Target target;
  const std::string other = std::string(table.isa) == "scalar" ? "neondot" : "scalar";
  for (const char* isa : {table.isa, other.c_str()}) {
    for (const sbk_dtype dtype : kDtypes) {
      const std::string file = sbk_file(smallest_model(), dtype, isa);
      for (std::size_t i = 0; i < entry_count(file); i++) {
        const sbk::SectionEntry e = entry(file, i);
        if (e.kind != sbk::SectionKind::packed) continue;
        const Context where([&] { return text(isa, " dtype ", dtype, " ", e.name); });
        const std::size_t at = static_cast<std::size_t>(e.offset);
        using H = sbk::PackedHeader;
        const auto bad = [&](const std::string& damaged) { CHECK(is_refusal(target.status(damaged))); };
        const auto any = [&](const std::string& damaged) { target.status(damaged); };
        for (std::size_t field = 0; field < offsetof(H, n); field += 2) with_hostile_values(file, at + field, 2, any);
        for (const std::size_t field :
             {offsetof(H, n), offsetof(H, k), offsetof(H, groups), offsetof(H, block), offsetof(H, bytes)}) {
          with_hostile_values(file, at + field, 8, bad);
        }
        for (uint16_t compute = 0; compute < 6; compute++) {
          std::string damaged = file;
          put(damaged, at + offsetof(H, compute), compute);
          if (damaged == file) continue;
          correct(damaged);
          bad(damaged);
        }
      }
    }
  }
}

TEST(hostile_configurations_in_a_file) {
  Target target;
  const std::string file = sbk_file(smallest_model(), SBK_FLOAT32, nullptr);
  const sbk::SectionEntry config = entry(file, 0);
  const std::string good(file, config.offset, config.bytes);
  // Every number of it becomes another of as many digits.
  for (std::size_t i = 0; i < good.size(); i++) {
    if (good[i] < '0' || good[i] > '9') continue;
    for (char digit = '0'; digit <= '9'; digit++) {
      std::string damaged = file;
      damaged[config.offset + i] = digit;
      correct(damaged);
      const Context where([&] { return text("byte ", i, " becomes ", digit); });
      const sbk_status status = target.status(damaged);
      CHECK(status == SBK_OK || is_refusal(status));
    }
  }
}

TEST(hostile_safetensors) {
  const TinyModel tiny = smallest_model();
  Folder folder{tiny};
  const std::string path = folder.path() + "/model.safetensors", good = tiny.safetensors();
  const auto status = [&](const std::string& bytes) {
    write_file(path, bytes);
    return load_and_use(folder.path());
  };
  const auto with_header = [&](const std::string& header) {
    const uint64_t bytes = header.size();
    return std::string(reinterpret_cast<const char*>(&bytes), sizeof bytes) + header + std::string(64, 'x');
  };
  expect(status(good), SBK_OK);
  for (std::size_t end = 0; end < good.size(); end += end < 64 ? 1 : 131) {
    const Context where([&] { return text("cut to ", end); });
    expect(status(good.substr(0, end)), SBK_BAD_FILE);
  }
  for (const uint64_t length : kHostile) {
    std::string damaged = good;
    put(damaged, 0, length);
    expect(status(damaged), SBK_BAD_FILE);
  }
  const char* headers[] = {
      "",
      "null",
      "[]",
      "{",
      "{\"a\"}",
      "{\"a\": {}}",
      "{\"a\": {\"dtype\": 3, \"shape\": [], \"data_offsets\": [0, 4]}}",
      "{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0]}}",
      "{\"a\": {\"dtype\": \"F32\", \"shape\": [-1], \"data_offsets\": [0, 4]}}",
      "{\"a\": {\"dtype\": \"F32\", \"shape\": [1.5], \"data_offsets\": [0, 4]}}",
      "{\"a\": {\"dtype\": \"F32\", \"shape\": [1e300], \"data_offsets\": [0, 4]}}",
      "{\"a\": {\"dtype\": \"F32\", \"shape\": [2147483647, 2147483647, 2147483647], \"data_offsets\": [0, 4]}}",
      "{\"a\": {\"dtype\": \"F32\", \"shape\": [0, 2147483647, 2147483647, 2147483647], \"data_offsets\": [0, 0]}}",
      "{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [4, 0]}}",
      "{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [62, 66]}}",
      "{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [-4, 0]}}",
      "{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [9223372036854775807, 9223372036854775811]}}",
      "{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [1e999, 1e999]}}",
      "{\"\\ud800\": 0, \"\\udc00\\u0000\": \"\\q\"}",
      "{\"embeddings.word_embeddings.weight\": {\"dtype\": \"F32\", \"shape\": [0, 8], \"data_offsets\": [0, 0]}}",
  };
  for (const char* header : headers) {
    const Context where([&] { return std::string(header); });
    expect(status(with_header(header)), SBK_BAD_FILE);
  }
  expect(status(with_header(std::string(100000, '['))), SBK_BAD_FILE, "nested too deeply");
  // Every tensor is needed, in its shape; where the values lie, aligned or not, does not matter.
  for (std::size_t at = good.find("\"transformer."); at != std::string::npos;
       at = good.find("\"transformer.", at + 1)) {
    std::string damaged = good;
    damaged[at + 1] = 'T';
    const sbk_status without = status(damaged);
    CHECK(without == SBK_BAD_FILE || good.compare(at, 30, "\"transformer.pooler.dense.weight", 30) == 0 ||
          good.substr(at, 24) == "\"transformer.pooler.dense");
  }
}

TEST(hostile_tokenizers) {
  Folder folder{smallest_model(), true};
  const std::string path = folder.path() + "/tokenizer.sbk", good = tiny_tokenizer();
  const auto status = [&](const std::string& bytes) {
    write_file(path, bytes);
    return load_and_use(folder.path());
  };
  expect(status(good), SBK_OK);
  for (std::size_t end = 0; end < good.size(); end += end < 256 ? 7 : 509)
    expect(status(good.substr(0, end)), SBK_BAD_FILE);
  for (std::size_t at = 0; at < sizeof(sbk::TokenizerHeader); at += 4) {
    for (const uint64_t value : kHostile) {
      std::string damaged = good;
      put(damaged, at, static_cast<uint32_t>(value));
      const Context where([&] { return text("value ", value, " at byte ", at); });
      const sbk_status got = status(damaged);
      CHECK(got == SBK_OK || got == SBK_BAD_FILE);
    }
  }
  Random random(22);
  for (int i = 0; i < 500; i++) {  // behind the header: values of sections
    std::string damaged = good;
    const std::size_t at =
        sizeof(sbk::TokenizerHeader) +
        static_cast<std::size_t>(random.below(static_cast<int64_t>(good.size() - sizeof(sbk::TokenizerHeader))));
    damaged[at] = static_cast<char>(random.bits());
    status(damaged);
  }
}

TEST(numbers_do_not_depend_on_the_locale) {
  TinyModel tiny = smallest_model();
  tiny.more = ", \"hidden_dropout_prob\": 0.1, \"layer_norm_eps\": 1e-12, \"initializer_range\": 2.5E-2";
  Folder folder{tiny};
  for (const char* name : {"de_DE.UTF-8", "de_DE", "fr_FR.UTF-8"}) {
    if (setlocale(LC_ALL, name) != nullptr) break;
  }
  expect(load_and_use(folder.path()), SBK_OK);
  setlocale(LC_ALL, "C");
}
